"""symmetrize_affinity: coefficients to the affinity graph W = (|C| + |C|ᵀ)/2 as CSR, sorted, merged and differentiable.

    A_ij = Σ |c| over the entries at (i, j),      W_ij = (A_ij + A_ji)/2,  max(A_ij, A_ji)  or  a + b − a·b

with a, b = A_ij, A_ji, at most 1. Source: the affinity of sparse subspace clustering (Elhamifar & Vidal, TPAMI 2013),
used by every method here; the last is the probabilistic sum by which UMAP (McInnes et al. 2018) joins directed edges.

Two ops, one from entries in rows, one from a dense matrix; the kernels count first, the length of W is read, then they
fill it. The gradient of the first is two gathers over the places of W that a third op finds; that of the second is as
dense as C and is written in PyTorch.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from dsc_ext import _checks, _native
from dsc_ext._torch import below_autograd
from dsc_ext.ops._register import register

_NAME = "symmetrize_affinity"

# What is used of CSR here (construction, values, products) is stable; the notice would greet every user of the package.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
_REDUCE = {"mean": 0, "max": 1, "t-conorm": 2}


def _check_options(reduce: str, threshold: float) -> None:
    if reduce not in _REDUCE:
        _checks.fail(_NAME, f"reduce must be 'mean', 'max' or 't-conorm', got {reduce!r}")
    if not threshold >= 0:
        _checks.fail(_NAME, f"threshold must be 0 or more, got {threshold}")


def _check(values: Tensor, crow: Tensor, column: Tensor) -> None:
    _checks.tensor(_NAME, "values", values, 1, _checks.REAL)
    _checks.tensor(_NAME, "crow", crow, 1, (torch.int64,), values)
    _checks.tensor(_NAME, "column", column, 1, (torch.int64,), values)
    if column.shape != values.shape:
        _checks.fail(_NAME, f"values and column must be equally long, got {values.shape[0]} and {column.shape[0]}")


def _check_dense(C: Tensor) -> None:
    _checks.tensor(_NAME, "values", C, 2, _checks.REAL)
    if C.shape[0] != C.shape[1]:
        _checks.fail(_NAME, f"values must be an (N, N) matrix, got {_checks.describe(C)}")


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _row_of(crow: Tensor) -> Tensor:
    """(nnz,) the row of each entry."""
    return torch.repeat_interleave(torch.arange(crow.shape[0] - 1, device=crow.device), crow.diff())


def _joined(own: Tensor, other: Tensor, reduce: str) -> Tensor:
    if reduce == "mean":
        return (own + other) / 2
    if reduce == "max":
        return torch.maximum(own, other)
    own, other = own.clamp(max=1), other.clamp(max=1)
    return own + other - own * other


def _share(own: Tensor, other: Tensor, reduce: str) -> Tensor | float:
    """∂W/∂own, W joined from own and other."""
    if reduce == "mean":
        return 0.5
    if reduce == "max":
        return (own > other).to(own.dtype) + 0.5 * (own == other).to(own.dtype)
    return (own <= 1).to(own.dtype) * (1 - other.clamp(max=1))


# ------------------------------------------------------------------------------------------------- from entries in rows


def _kernel(values: Tensor, crow: Tensor, column: Tensor, reduce: str, threshold: float) -> tuple[Tensor, ...]:
    _check(values, crow, column)
    _check_options(reduce, threshold)
    native = _native.backend(values)
    if native is None:
        return _without_kernel(values, crow, column, reduce, threshold)
    values, crow, column = values.contiguous(), crow.contiguous(), column.contiguous()
    n, entries = crow.shape[0] - 1, values.shape[0]
    if n == 0 or entries == 0:
        return values.new_empty(0), torch.zeros_like(crow), column.new_empty(0)
    dtype, queue = _native.DTYPES[values.dtype], _native.queue(values)
    out_crow = torch.empty_like(crow)
    scratch = crow.new_empty(native.symmetrize_scratch(dtype, queue, n, entries))
    with _native.device_of(values):
        native.symmetrize_count(
            dtype, queue, n, entries, values.data_ptr(), crow.data_ptr(), column.data_ptr(), threshold,
            _REDUCE[reduce], scratch.data_ptr(), out_crow.data_ptr(),
        )  # fmt: skip
        nonzeros = int(out_crow[-1])  # the length of W: the one host read
        out_column, out_values = column.new_empty(nonzeros), values.new_empty(nonzeros)
        native.symmetrize_fill(
            dtype, queue, n, entries, values.data_ptr(), _REDUCE[reduce], scratch.data_ptr(),
            out_crow.data_ptr(), out_column.data_ptr(), out_values.data_ptr(),
        )  # fmt: skip
    return out_values, out_crow, out_column


def _without_kernel(values: Tensor, crow: Tensor, column: Tensor, reduce: str, threshold: float) -> tuple[Tensor, ...]:
    """The same three outputs from sorts and scatters of PyTorch, for devices without a kernel."""
    n = crow.shape[0] - 1
    kept = (column >= 0) & ~(values.abs() <= threshold)
    row, column, magnitude = _row_of(crow)[kept], column[kept], values[kept].abs()
    places, where = torch.cat([row * n + column, column * n + row]).unique(return_inverse=True)
    forward, backward = where.chunk(2)
    own = values.new_zeros(places.numel()).index_add_(0, forward, magnitude)
    other = values.new_zeros(places.numel()).index_add_(0, backward, magnitude)
    out_crow = _offsets(torch.bincount(places // max(n, 1), minlength=n)[:n])
    return _joined(own, other, reduce), out_crow, places % max(n, 1)


def _fake(values: Tensor, crow: Tensor, column: Tensor, reduce: str, threshold: float) -> tuple[Tensor, ...]:
    _check(values, crow, column)
    _check_options(reduce, threshold)
    nonzeros = torch.library.get_ctx().new_dynamic_size()
    return values.new_empty(nonzeros), crow.new_empty(crow.shape[0]), column.new_empty(nonzeros)


def _places_kernel(
    values: Tensor, crow: Tensor, column: Tensor, out_crow: Tensor, out_column: Tensor, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    native = _native.backend(values)
    if native is None:
        n, nonzeros = crow.shape[0] - 1, out_column.shape[0]
        row = _row_of(out_crow)
        places = row * n + out_column
        position = torch.searchsorted(places, _row_of(crow) * n + column)
        position = position.masked_fill((column < 0) | (values.abs() <= threshold), nonzeros)
        A = values.new_zeros(nonzeros + 1).index_add_(0, position, values.abs())[:-1]
        return position, torch.searchsorted(places, out_column * n + row), A.clone()
    values, crow, column = values.contiguous(), crow.contiguous(), column.contiguous()
    position, mirror = torch.empty_like(column), torch.empty_like(out_column)
    A = values.new_empty(out_column.shape[0])
    with _native.device_of(values):
        native.symmetrize_places(
            _native.DTYPES[values.dtype], _native.queue(values), crow.shape[0] - 1, values.data_ptr(), crow.data_ptr(),
            column.data_ptr(), threshold, out_crow.data_ptr(), out_column.data_ptr(),
            position.data_ptr(), mirror.data_ptr(), A.data_ptr(),
        )  # fmt: skip
    return position, mirror, A


def _places_fake(
    values: Tensor, crow: Tensor, column: Tensor, out_crow: Tensor, out_column: Tensor, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(column), torch.empty_like(out_column), values.new_empty(out_column.shape[0])


class _Symmetrize(torch.autograd.Function):
    """∂L/∂c_e = sign(c_e) · ∂W/∂A · (g at (i, j) + g at (j, i)), taken at the places of W and gathered."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        with below_autograd():
            outputs: tuple[Tensor, ...] = _op(*arguments)
        ctx.save_for_backward(*arguments[:3], *outputs[1:])
        ctx.options = arguments[3:]
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, G: Tensor, *_others: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, crow, column, out_crow, out_column = ctx.saved_tensors
        reduce, threshold = ctx.options
        position, mirror, A = _places(values.detach(), crow, column, out_crow, out_column, threshold)
        if torch.is_grad_enabled():  # A as a function of the values, for the second derivative
            A = values.new_zeros(G.shape[0] + 1).index_add(0, position, values.abs())[:-1]
        at_places = _share(A, A[mirror], reduce) * (G + G[mirror])
        # One zero more: where dropped entries point.
        return values.sign() * torch.nn.functional.pad(at_places, (0, 1))[position], None, None, None, None


_op = register(
    "symmetrize_affinity(Tensor values, Tensor crow, Tensor column, str reduce, float threshold)"
    " -> (Tensor, Tensor, Tensor)",
    kernel=_kernel,
    fake=_fake,
    autograd=_Symmetrize,
    autocast=True,
)
_places = register(
    "symmetrize_places(Tensor values, Tensor crow, Tensor column, Tensor out_crow, Tensor out_column, float threshold)"
    " -> (Tensor, Tensor, Tensor)",
    kernel=_places_kernel,
    fake=_places_fake,
)


# ------------------------------------------------------------------------------------------------- from a dense matrix


def _dense_kernel(C: Tensor, reduce: str, threshold: float) -> tuple[Tensor, ...]:
    _check_dense(C)
    _check_options(reduce, threshold)
    n, native = C.shape[0], _native.backend(C)
    if native is None:
        kept = ~(C.abs() <= threshold)
        return _without_kernel(C[kept], _offsets(kept.sum(dim=1)), kept.nonzero()[:, 1], reduce, 0.0)
    crow = torch.zeros(n + 1, dtype=torch.int64, device=C.device)
    if n == 0:
        return C.new_empty(0), crow, crow.new_empty(0)
    C = _native.row_major(C.T if C.stride(0) == 1 else C)  # W of the transpose is the same W
    dtype, queue = _native.DTYPES[C.dtype], _native.queue(C)
    scratch = crow.new_empty(native.symmetrize_dense_scratch(n))
    with _native.device_of(C):
        native.symmetrize_dense_count(
            dtype, queue, n, C.data_ptr(), C.stride(0), threshold, scratch.data_ptr(), crow.data_ptr()
        )
        nonzeros = int(crow[-1])  # the length of W: the one host read
        column, values = crow.new_empty(nonzeros), C.new_empty(nonzeros)
        native.symmetrize_dense_fill(
            dtype, queue, n, C.data_ptr(), C.stride(0), _REDUCE[reduce], scratch.data_ptr(),
            crow.data_ptr(), column.data_ptr(), values.data_ptr(),
        )  # fmt: skip
    return values, crow, column


def _dense_fake(C: Tensor, reduce: str, threshold: float) -> tuple[Tensor, ...]:
    _check_dense(C)
    _check_options(reduce, threshold)
    nonzeros = torch.library.get_ctx().new_dynamic_size()
    index = torch.empty(0, dtype=torch.int64, device=C.device)
    return C.new_empty(nonzeros), index.new_empty(C.shape[0] + 1), index.new_empty(nonzeros)


class _SymmetrizeDense(torch.autograd.Function):
    """The same where every place of C is a place of its own."""

    @staticmethod
    def forward(ctx: Any, C: Tensor, reduce: str, threshold: float) -> tuple[Tensor, ...]:  # type: ignore[override]
        with below_autograd():
            outputs: tuple[Tensor, ...] = _dense_op(C, reduce, threshold)
        ctx.save_for_backward(C, *outputs[1:])
        ctx.options = reduce, threshold
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, G: Tensor, *_others: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        C, crow, column = ctx.saved_tensors
        reduce, threshold = ctx.options
        n = C.shape[0]
        dense = torch.zeros_like(C).reshape(-1).index_copy(0, _row_of(crow) * n + column, G).view(n, n)
        A = C.abs()
        A = torch.where(A <= threshold, 0, A)
        found = C.sign() * _share(A, A.T, reduce) * (dense + dense.T)
        return torch.where(C.abs() <= threshold, 0, found), None, None


_dense_op = register(
    "symmetrize_dense(Tensor C, str reduce, float threshold) -> (Tensor, Tensor, Tensor)",
    kernel=_dense_kernel,
    fake=_dense_fake,
    autograd=_SymmetrizeDense,
    autocast=True,
)


def symmetrize_affinity(
    values: Tensor, indices: Tensor | None = None, *, reduce: str = "mean", threshold: float = 0.0
) -> Tensor:
    """Make the affinity graph of a coefficient matrix, both directions of an edge made one, as sparse CSR.

    Args:
        values: (N, N) dense; or (N, N) ``torch.sparse_csr`` (rows need not be sorted); or (N, k) with ``indices``.
            float32 or float64.
        indices: (N, k) int64 columns of ``values``; a negative one marks padding. Repeated columns are added up (of
            |c|).
        reduce: with a = |C|_ij and b = |C|_ji, "mean" for (a + b)/2, "max" for the larger, "t-conorm" for the
            probabilistic sum a + b − a·b. That is defined on [0, 1]; a coefficient above 1 counts as 1 (and has no
            gradient), so scale C first where its size should tell.
        threshold: entries with |c| ≤ threshold are dropped beforehand; NaN stays.

    Returns:
        (N, N) ``torch.sparse_csr`` with sorted, unique columns, exactly symmetric; differentiable with respect to
        ``values`` (for "max" the larger side takes the gradient, ties share it, as ``torch.maximum`` does). Twice
        differentiable.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.
        IndexError: (CPU) a column ≥ N; on CUDA a device-side assertion.

    Cost: on the CPU O(nnz) time where rows come sorted, O(nnz log row) where not, all threads, and scratch of about the
    size of W; from dense, C is read once and a bit a number kept. One host read for the size of W (so not in a CUDA
    graph). Deterministic: every sum is taken in (column, entry) order, the same bits for any number of threads, no
    atomics on values. Under autocast everything is computed in float32.

    Source: Elhamifar & Vidal, *Sparse Subspace Clustering*, TPAMI 2013, §2; t-conorm: McInnes, Healy & Melville,
    *UMAP*, arXiv 1802.03426, §3.1.

    Example:
        >>> W = symmetrize_affinity(torch.tensor([[0.0, -2.0], [0.0, 0.0]]))
        >>> W.to_dense()
        tensor([[0., 1.],
                [1., 0.]])
    """
    if not isinstance(values, Tensor):
        _checks.fail(_NAME, f"values must be a tensor, got {_checks.describe(values)}", TypeError)
    if indices is not None:
        _checks.tensor(_NAME, "values", values, 2, _checks.STORAGE)
        _checks.tensor(_NAME, "indices", indices, 2, (torch.int64,))
        if values.shape != indices.shape:
            _checks.fail(
                _NAME, f"values and indices must both be (N, k), got {tuple(values.shape)} and {tuple(indices.shape)}"
            )
        n, k = indices.shape
        crow = torch.arange(n + 1, device=indices.device) * k
        data, out_crow, column = _op(values.reshape(-1), crow, indices.reshape(-1), reduce, threshold)
    elif values.dim() != 2 or values.shape[0] != values.shape[1]:
        _checks.fail(
            _NAME, f"values without indices must be an (N, N) matrix, dense or CSR, got {_checks.describe(values)}"
        )
    elif values.layout is torch.sparse_csr:
        n, crow, column = values.shape[0], values.crow_indices().long(), values.col_indices().long()
        data, out_crow, column = _op(values.values(), crow, column, reduce, threshold)
    elif values.layout is torch.strided:
        n = values.shape[0]
        data, out_crow, column = _dense_op(values, reduce, threshold)
    else:
        _checks.fail(_NAME, f"values must be dense or sparse CSR, got layout {values.layout}", TypeError)
    return torch.sparse_csr_tensor(out_crow, column, data, (n, n), check_invariants=False)
