"""ridge_on_support, elastic_net_on_support, omp_on_support: each sample by the k others that its support names.

    c_b = argmin ‖q_b − Σ_s c_s x_(i_bs)‖² + a penalty of c,     or greedily, one atom at a time

Source: self-expression with the ridge penalty (Lu et al., ECCV 2012), the elastic net with an active support (You et
al., *Oracle Based Active Set Algorithm*, CVPR 2016) and orthogonal matching pursuit (You et al., *Scalable Sparse
Subspace Clustering by OMP*, CVPR 2016), each on candidates found beforehand, by :func:`topk_coefficients` for instance.

What is a kernel and what is a library call, and why: PyTorch would gather B × k × d numbers, store B × k × k Gram
matrices and factor them one by one; the kernel does all of it for a row where the row's numbers are in fast memory.
The gradient needs no solver: on the active set A (every entry of ridge, else those that are not zero) c solves
(G_AA + λ2 I) c = g_A + const, so with u = (G_AA + λ2 I)⁻¹ ∂L/∂c, v = Xᵀu and the residual r = q − Xᵀc

    ∂L/∂q = v,     ∂L/∂x_s = u_s r − c_s v

u comes from PyTorch's batched Cholesky, a block of rows at a time (``on_support_adjoint``, an op of its own so that it
traces), and the sums over entries are those of :func:`sparse_self_expression`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dsc_ext import _checks, _native, reference
from dsc_ext._torch import below_autograd
from dsc_ext.ops._register import register

_BLOCK = 1 << 24  # numbers that exist at a time where PyTorch has to serve


def _check(name: str, X: Tensor, indices: Tensor, Q: Tensor | None) -> None:
    _checks.tensor(name, "X", X, 2, _checks.REAL)
    _checks.tensor(name, "indices", indices, 2, (torch.int64,), X)
    if Q is not None:
        _checks.tensor(name, "Q", Q, 2, (X.dtype,), X)
        if Q.shape != (indices.shape[0], X.shape[1]):
            expected = (indices.shape[0], X.shape[1])
            _checks.fail(name, f"Q must be (B, d) = {expected} as indices and X say, got {tuple(Q.shape)}")
    elif indices.shape[0] != X.shape[0]:
        _checks.fail(
            name,
            f"indices must be (N, k) with N = X.shape[0] = {X.shape[0]} where no Q is given, got "
            f"{tuple(indices.shape)}",
        )


def _check_number(name: str, which: str, value: float, *, positive: bool = False) -> None:
    if not (math.isfinite(value) and (value > 0 if positive else value >= 0)):
        wanted = "positive" if positive else "0 or more"
        _checks.fail(name, f"{which} must be {wanted} and finite, got {value}")


def _rows_at_a_time(k: int, d: int) -> int:
    return max(1, _BLOCK // max(k * (d + 3 * k), 1))


def _solve(name: str, X: Tensor, indices: Tensor, Q: Tensor | None, *parameters: float) -> Tensor:
    """By the kernel, or by the reference over blocks of rows where there is none for so many atoms."""
    (B, k), (N, d) = indices.shape, X.shape
    native = _native.backend(X)
    dtype = _native.DTYPES[X.dtype]
    if native is None or k > native.on_support_most(dtype):
        return _by_library(name, X, indices, Q, *parameters)
    values = X.new_empty(B, k)
    if B * k * d == 0:
        return values.zero_()
    X, indices, Q = _native.row_major(X), _native.row_major(indices), None if Q is None else _native.row_major(Q)
    queue = _native.queue(X)
    with _native.device_of(X):
        scratch = X.new_empty(native.on_support_scratch(dtype, queue, k), dtype=torch.uint8)
        getattr(native, name)(
            dtype, queue, X.data_ptr(), X.stride(0), N, d, indices.data_ptr(), indices.stride(0), B, k,
            _native.pointer(Q), 0 if Q is None else Q.stride(0), *parameters, scratch.data_ptr(), values.data_ptr(),
        )  # fmt: skip
    return values


def _by_library(name: str, X: Tensor, indices: Tensor, Q: Tensor | None, *parameters: float) -> Tensor:
    step = _rows_at_a_time(indices.shape[1], X.shape[1])
    if Q is None:  # rows of a block are no longer those of X: say who they are in another way
        Q, indices = X, indices.masked_fill(indices == torch.arange(X.shape[0], device=X.device)[:, None], -1)
    parts = [
        getattr(reference, name)(X, indices[b : b + step], Q[b : b + step], *parameters)
        for b in range(0, max(indices.shape[0], 1), step)
    ]
    return torch.cat(parts)


def _adjoint(G: Tensor, X: Tensor, indices: Tensor, active: Tensor, shift: float, floored: bool) -> Tensor:
    """u: the reference over blocks of rows."""
    step = _rows_at_a_time(indices.shape[1], X.shape[1])
    parts = [
        reference.on_support_adjoint(G[b : b + step], X, indices[b : b + step], active[b : b + step], shift, floored)
        for b in range(0, max(G.shape[0], 1), step)
    ]
    return torch.cat(parts)


def _adjoint_fake(G: Tensor, X: Tensor, indices: Tensor, active: Tensor, shift: float, floored: bool) -> Tensor:
    return G.new_empty(indices.shape)


_adjoint_op = register(
    "on_support_adjoint(Tensor G, Tensor X, Tensor indices, Tensor active, float shift, bool floored) -> Tensor",
    kernel=_adjoint,
    fake=_adjoint_fake,
    autocast=True,
)


def _autograd(name: str, shift: int | None, every_entry: bool) -> type[torch.autograd.Function]:
    """The Function of op ``name``: ``shift`` says which parameter λ2 is, ``every_entry`` that zeros are active too."""

    class OnSupport(torch.autograd.Function):
        """Gradients for X and Q. Under ``create_graph`` the same system is solved by differentiable library calls."""

        @staticmethod
        def forward(  # type: ignore[override]
            ctx: Any, X: Tensor, indices: Tensor, Q: Tensor | None, *parameters: float
        ) -> Tensor:
            with below_autograd():
                values: Tensor = getattr(torch.ops.dsc_ext, name)(X, indices, Q, *parameters)
            ctx.save_for_backward(X, indices, Q, values)
            ctx.shift = 0.0 if shift is None else parameters[shift]
            return values

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
            X, indices, Q, values = ctx.saved_tensors
            wants_X, _, wants_Q, *rest = ctx.needs_input_grad
            nothing = (None,) * len(rest)
            values = values.detach()
            active = indices >= 0
            if Q is None:
                active = active & (indices != torch.arange(X.shape[0], device=X.device)[:, None])
            if not every_entry:
                active = active & (values != 0)
            if torch.is_grad_enabled():
                c = _closed_form(X, indices, Q, values, active, ctx.shift, every_entry)
                inputs = [x for x, wants in ((X, wants_X), (Q, wants_Q)) if wants]
                found = iter(torch.autograd.grad(c, inputs, grad, create_graph=True))
                return next(found) if wants_X else None, None, next(found) if wants_Q else None, *nothing
            dX, dQ = _gradients(X, indices, Q, values, _adjoint_op(grad, X, indices, active, ctx.shift, every_entry))
            return dX if wants_X else None, None, dQ if wants_Q else None, *nothing

    return OnSupport


def _closed_form(
    X: Tensor, indices: Tensor, Q: Tensor | None, values: Tensor, active: Tensor, shift: float, floored: bool
) -> Tensor:
    """``values`` as a differentiable function of X and Q, the active set and what the penalty adds being constant."""
    G, g, _, _ = reference.products_on_support(X, indices, Q)
    least = reference.ridge_shift(G, shift) if floored else G.new_full(G.shape[:1], shift)
    penalty = (G @ values[..., None])[..., 0] + least[:, None] * values - g
    return reference.solve_on_active(G, active, least, g + penalty.detach())


def _gradients(X: Tensor, indices: Tensor, Q: Tensor | None, values: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """∂L/∂X, that of the samples as targets included where there is no Q, and ∂L/∂Q."""
    own, N = Q is None, X.shape[0]

    def combined(weights: Tensor) -> Tensor:
        out: Tensor = torch.ops.dsc_ext.sparse_self_expression(weights, indices, X, None, None, own, 0, False)
        return out

    def spread(rows: Tensor, weights: Tensor) -> Tensor:
        out: Tensor = torch.ops.dsc_ext.sparse_self_expression_transposed(
            rows, weights, indices, None, N, False, True, False, own, 0
        )
        return out

    v = combined(u)
    residual = (X if Q is None else Q) - combined(values)
    dX = spread(residual, u) - spread(v, values)
    return dX + v if own else dX, v


def _registered(schema: str, check: Callable[..., None], *, shift: int | None, every_entry: bool = False) -> Any:
    name = schema.partition("(")[0]

    def checked(X: Tensor, indices: Tensor, Q: Tensor | None, *parameters: float) -> None:
        _check(name, X, indices, Q)
        check(name, *parameters)

    def kernel(X: Tensor, indices: Tensor, Q: Tensor | None, *parameters: float) -> Tensor:
        checked(X, indices, Q, *parameters)
        return _solve(name, X, indices, Q, *parameters)

    def fake(X: Tensor, indices: Tensor, Q: Tensor | None, *parameters: float) -> Tensor:
        checked(X, indices, Q, *parameters)
        return X.new_empty(indices.shape)

    function = _autograd(name, shift, every_entry)
    return register(schema, kernel=kernel, fake=fake, autograd=function, autocast=True)


def _check_ridge(name: str, lam: float) -> None:
    _check_number(name, "lam", lam, positive=True)


def _check_elastic_net(name: str, l1: float, l2: float) -> None:
    _check_number(name, "l1", l1)
    _check_number(name, "l2", l2)


def _check_pursuit(name: str, n_nonzero: int, tolerance: float) -> None:
    _check_number(name, "n_nonzero", n_nonzero)
    _check_number(name, "tolerance", tolerance)


_ridge_op = _registered(
    "ridge_on_support(Tensor X, Tensor indices, Tensor? Q, float lam) -> Tensor",
    _check_ridge,
    shift=0,
    every_entry=True,
)
_elastic_net_op = _registered(
    "elastic_net_on_support(Tensor X, Tensor indices, Tensor? Q, float l1, float l2) -> Tensor",
    _check_elastic_net,
    shift=1,
)
_omp_op = _registered(
    "omp_on_support(Tensor X, Tensor indices, Tensor? Q, int n_nonzero, float tolerance) -> Tensor",
    _check_pursuit,
    shift=None,
)


def _run(op: Any, name: str, X: Tensor, indices: Tensor, Q: Tensor | None, *parameters: float) -> Tensor:
    if not (isinstance(X, Tensor) and isinstance(indices, Tensor) and (Q is None or isinstance(Q, Tensor))):
        _check(name, X, indices, Q)  # before the schema does, in other words
    values: Tensor = op(X, indices, Q, *parameters)
    return values


def ridge_on_support(X: Tensor, indices: Tensor, lam: float, *, Q: Tensor | None = None) -> Tensor:
    r"""Solve for each row's ridge coefficients on its support.

    .. math:: \min_c \|q_b - \sum_s c_s x_{i_{bs}}\|^2 + \lambda \|c\|^2

    Args:
        X: (N, d) samples, float32 or float64.
        indices: (B, k) int64, the atoms of each row, as ``topk_coefficients`` gives them. A negative one is padding. An
            atom named twice in a row is two atoms, which share its coefficient evenly.
        lam: λ, positive. One below (10 + k) machine epsilons of the row's largest squared norm is taken as that, for
            the rounding of the Gram matrix hides it.
        Q: (B, d) what is to be written by the atoms, of the dtype of X; ``None`` for the samples themselves. Then
            B = N, and an entry that names its own row is padding.

    Returns:
        (B, k) coefficients, contiguous, of the dtype of X; zero for padding. A row whose target or one of whose atoms
        has a squared norm that is not finite is NaN but for its padding; no other row is.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name; λ that is not positive.
        IndexError: (CPU) an index of N or more; on CUDA a device-side assertion.

    Cost: B (k² d + k³ / 3) FLOP, with memory for one row's Gram matrix a thread. On CUDA a warp takes a row with up to
    120 atoms (float64: 80); above it, PyTorch solves blocks of rows.
    Backward: the systems once more by PyTorch, in blocks of rows, and 8·B·k·d FLOP; twice differentiable, the second
    time with B·k·d numbers in memory. Deterministic: the same bits for any number of threads. Under autocast
    everything is computed in float32.

    Source: Lu et al., *Robust and Efficient Subspace Segmentation via Least Squares Regression*, ECCV 2012.

    Example:
        >>> X = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
        >>> ridge_on_support(X, torch.tensor([[1, 2], [0, -1], [0, 1]]), 1.0)
        tensor([[1.0000, 0.0000],
                [0.4000, 0.0000],
                [0.0000, 0.0000]])
    """
    return _run(_ridge_op, "ridge_on_support", X, indices, Q, lam)


def elastic_net_on_support(X: Tensor, indices: Tensor, l1: float, l2: float, *, Q: Tensor | None = None) -> Tensor:
    r"""Solve each row's elastic net on its support, exactly, by homotopy.

    .. math:: \min_c \tfrac12 \|q_b - \sum_s c_s x_{i_{bs}}\|^2 + \lambda_1 \|c\|_1 + \tfrac12 \lambda_2 \|c\|^2

    Args:
        X, indices, Q: as for :func:`ridge_on_support`. An atom named twice in a row is two atoms: with λ2 > 0 they
            share its coefficient evenly, without it one of them has it.
        l1: λ1, 0 or more.
        l2: λ2, 0 or more; 0 is the lasso.

    Returns:
        (B, k) coefficients, contiguous, of the dtype of X, most of them exactly zero; zero for padding, NaN in rows
        that are not finite, as :func:`ridge_on_support` has it. Where atoms of a row are collinear and λ2 = 0 the
        solution is not unique: an atom of which less than (10 + k) machine epsilons of its square are left beside the
        active ones stays out.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name; a negative λ.
        IndexError: (CPU) an index of N or more; on CUDA a device-side assertion.

    Cost: the Gram matrix, B·k²·d FLOP; then for each of a row's events (an atom joins or leaves; about as many as the
    row has coefficients in the end) O(k n) with n atoms active. A row that takes more than 50 (k + 1) events ends with
    the coefficients of the larger λ1 it has reached. On CUDA as :func:`ridge_on_support`; above its k the steps of
    PyTorch wait for the GPU.
    Backward: as :func:`ridge_on_support`, with the signs and the active set held; twice differentiable. Deterministic.
    Under autocast everything is computed in float32.

    Source: Osborne et al., *A new approach to variable selection in least squares problems*, IMA J. Numer. Anal. 2000;
    Efron et al., *Least angle regression*, Ann. Stat. 2004; Zou & Hastie, JRSS B 2005 (elastic net); You et al.,
    *Oracle Based Active Set Algorithm for Scalable Elastic Net Subspace Clustering*, CVPR 2016.

    Example:
        >>> X = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
        >>> elastic_net_on_support(X, torch.tensor([[1, 2], [0, -1], [0, 1]]), 0.5, 0.5)
        tensor([[1.0000, 0.0000],
                [0.3333, 0.0000],
                [0.0000, 0.0000]])
    """
    return _run(_elastic_net_op, "elastic_net_on_support", X, indices, Q, l1, l2)


def omp_on_support(
    X: Tensor, indices: Tensor, n_nonzero: int, *, tolerance: float = 1e-6, Q: Tensor | None = None
) -> Tensor:
    r"""Write each row by orthogonal matching pursuit among the atoms of its support.

    Again and again the atom with the largest :math:`|\langle x_s, r\rangle|` joins, r being the residual of least
    squares on those that have joined; ties go to the first entry. With rows of norm one that is SSC-OMP.

    Args:
        X, indices, Q: as for :func:`ridge_on_support`. Of an atom named twice in a row the first entry counts.
        n_nonzero: how many atoms may join, 0 or more.
        tolerance: stop once ‖r‖² is at most this share of ‖q‖²: for unit rows the ε² of SSC-OMP, which stops at
            ‖r‖ ≤ ε. Less than (10 + k) machine epsilons is taken as that; beyond it the residual is rounding.

    Returns:
        (B, k) coefficients, contiguous, of the dtype of X, at most n_nonzero in a row; zero for padding, NaN in rows
        that are not finite, as :func:`ridge_on_support` has it. An atom of which less than (10 + k) machine epsilons of
        its square are left beside those that have joined is passed over.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name; a negative number.
        IndexError: (CPU) an index of N or more; on CUDA a device-side assertion.

    Cost: the Gram matrix, B·k²·d FLOP, and O(k n) for the n-th atom that joins. On CUDA as :func:`ridge_on_support`.
    Backward: as :func:`ridge_on_support`, with the chosen atoms held; twice differentiable. Deterministic.
    Under autocast everything is computed in float32.

    Source: Pati et al., *Orthogonal Matching Pursuit*, Asilomar 1993; You et al., *Scalable Sparse Subspace Clustering
    by Orthogonal Matching Pursuit*, CVPR 2016.

    Example:
        >>> X = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
        >>> omp_on_support(X, torch.tensor([[1, 2], [0, -1], [0, 1]]), 1)
        tensor([[2.0000, 0.0000],
                [0.5000, 0.0000],
                [0.0000, 0.0000]])
    """
    return _run(_omp_op, "omp_on_support", X, indices, Q, n_nonzero, tolerance)
