"""inner_product_self_expression: Ẑ = C V with coefficients that are functions of two embeddings, never stored.

    Ẑ_b = Σ_{j ≠ r_b} c_bj v_j,     c_bj = scale · φ(⟨q_b, k_j⟩),     φ(s) = sign(s) max(|s| − threshold, 0) or s

Source: SENet (Zhang et al., CVPR 2021, arXiv 2110.04318): c_ij = T_b(u_i · v_j) / 1024 with one learnable threshold b.

What is a kernel and what is a library call, and why. With a threshold the coefficients have to be visited one by one:
the kernels stream them as attention streams its weights, and the backward computes them again, in O((B + N) d) memory.
Without one, C = scale · Q Kᵀ has rank dq and the products can be taken in either order: Q (Kᵀ V) is linear in N and a
few library calls, (Q Kᵀ) V is cheaper only where B·N is small beside N·d, so both stay within O((B + N) d) memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsc_ext import _checks, _native, reference
from dsc_ext._torch import below_autograd
from dsc_ext.ops._register import register

_NAME = "inner_product_self_expression"
Four = tuple[Tensor, Tensor, Tensor, Tensor]  # of Q, K, V and the threshold


class InnerProductSelfExpression(NamedTuple):
    """Hold Ẑ (B, dv), and per row ‖c‖₁ (B,) (None without a threshold) and ‖c‖₂² (B,)."""

    Zhat: Tensor
    l1: Tensor | None
    l2: Tensor


def _check(Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor | None, rows: Tensor | None, zero_diagonal: bool) -> None:
    _checks.tensor(_NAME, "Q", Q, 2, _checks.STORAGE)
    _checks.tensor(_NAME, "K", K, 2, (Q.dtype,), Q)
    _checks.tensor(_NAME, "V", V, 2, (Q.dtype,), Q)
    B, dq = Q.shape
    N = K.shape[0]
    if K.shape[1] != dq:
        _checks.fail(_NAME, f"K must be (N, dq) with dq = Q.shape[1] = {dq}, got {tuple(K.shape)}")
    if V.shape[0] != N:
        _checks.fail(_NAME, f"V must be (N, dv) with N = K.shape[0] = {N}, got {tuple(V.shape)}")
    if threshold is not None:
        if not isinstance(threshold, Tensor) or threshold.numel() != 1:
            _checks.fail(_NAME, f"threshold must be a tensor with one element, got {_checks.describe(threshold)}")
        dtypes = {_checks.accumulation_dtype(Q), Q.dtype}
        if threshold.dtype not in dtypes:
            names = " or ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            _checks.fail(_NAME, f"threshold must be {names}, got {_checks.describe(threshold)}", TypeError)
        if threshold.device != Q.device:
            _checks.fail(_NAME, f"threshold must be on {Q.device} like the other tensors, got {threshold.device}")
    if not zero_diagonal:
        return
    if rows is None:
        if B != N:
            _checks.fail(
                _NAME,
                "rows (B,) must say which sample each query is, so that its own coefficient can be left out; it can be "
                f"None only where B = N, got B = {B}, N = {N} (queries that are no samples: zero_diagonal=False)",
            )
        return
    _checks.tensor(_NAME, "rows", rows, 1, (torch.int64,), Q)
    if rows.shape[0] != B:
        _checks.fail(_NAME, f"rows must be (B,) with B = Q.shape[0] = {B}, got {tuple(rows.shape)}")


def _own_column(Q: Tensor, rows: Tensor | None, zero_diagonal: bool) -> Tensor | None:
    """(B,): the sample that each query is, or None where no coefficient is left out."""
    if not zero_diagonal:
        return None
    return torch.arange(Q.shape[0], device=Q.device) if rows is None else rows.contiguous()


# ----------------------------------------------------------------------------------------------- with a threshold


def _kernel(
    Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor, scale: float, rows: Tensor | None, zero_diagonal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _check(Q, K, V, threshold, rows, zero_diagonal)
    rows = _own_column(Q, rows, zero_diagonal)
    native = _native.backend(Q)
    if native is None:
        Zhat, l1, l2 = reference.inner_product_self_expression(Q, K, V, threshold, scale, rows)
        return Zhat.contiguous(), l1, l2
    (B, dq), (N, dv), given = Q.shape, V.shape, Q.dtype
    Q, K, V, threshold = _operands(native, Q, K, V, threshold)
    out, l1, l2 = (threshold.new_empty(shape) for shape in ((B, dv), (B,), (B,)))
    if B:
        scratch = threshold.new_empty(native.inner_product_self_expression_scratch(_dtype(Q), B, N, dq, dv, False))
        with _native.device_of(Q):
            native.inner_product_self_expression(
                _dtype(Q), _native.queue(Q), _native.tf32(Q),
                Q.data_ptr(), Q.stride(0), B, dq, K.data_ptr(), K.stride(0), N, V.data_ptr(), V.stride(0), dv,
                threshold.data_ptr(), scale, _native.pointer(rows),
                scratch.data_ptr(), out.data_ptr(), l1.data_ptr(), l2.data_ptr(),
            )  # fmt: skip
    return out.to(given), l1, l2


def _operands(native: Any, Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor) -> Four:
    """As the launchers read them: rows of adjacent numbers, in a type they know, the threshold in the compute type."""
    compute = _checks.accumulation_dtype(Q)
    if not native.inner_product_self_expression_reads(_dtype(Q)):
        Q, K, V = (x.to(compute) for x in (Q, K, V))
    return _native.row_major(Q), _native.row_major(K), _native.row_major(V), threshold.to(compute)


def _dtype(Q: Tensor) -> int:
    return _native.DTYPES[Q.dtype]


def _fake(
    Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor, scale: float, rows: Tensor | None, zero_diagonal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _check(Q, K, V, threshold, rows, zero_diagonal)
    B, compute = Q.shape[0], _checks.accumulation_dtype(Q)
    return Q.new_empty(B, V.shape[1]), Q.new_empty(B, dtype=compute), Q.new_empty(B, dtype=compute)


def _backward_kernel(
    Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor, scale: float, rows: Tensor | None, zero_diagonal: bool,
    G: Tensor, G1: Tensor, G2: Tensor, wanted: list[bool],
) -> Four:  # fmt: skip
    """dQ, dK, dV, dthreshold from the gradients of Ẑ, ‖c‖₁ and ‖c‖₂²; an empty tensor for what is not wanted."""
    inputs = (Q, K, V, threshold)
    rows = _own_column(Q, rows, zero_diagonal)
    native = _native.backend(Q)
    if native is None:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(wants) for x, wants in zip(inputs, wanted, strict=True)]
            found = _differentiate(leaves, scale, rows, (G, G1, G2))
        return _four([x.new_empty(0) if grad is None else grad for x, grad in zip(inputs, found, strict=True)])
    (B, dq), (N, dv) = Q.shape, V.shape
    Q, K, V, threshold = _operands(native, Q, K, V, threshold)
    G, G1, G2 = _native.row_major(G.to(Q.dtype)), G1.contiguous(), G2.contiguous()
    made = [threshold.new_empty(x.shape) if wants else None for x, wants in zip(inputs, wanted, strict=True)]
    scratch = threshold.new_empty(native.inner_product_self_expression_scratch(_dtype(Q), B, N, dq, dv, True))
    with _native.device_of(Q):
        native.inner_product_self_expression_backward(
            _dtype(Q), _native.queue(Q), _native.tf32(Q),
            Q.data_ptr(), Q.stride(0), B, dq, K.data_ptr(), K.stride(0), N, V.data_ptr(), V.stride(0), dv,
            threshold.data_ptr(), scale, _native.pointer(rows),
            G.data_ptr(), G.stride(0), G1.data_ptr(), G2.data_ptr(), scratch.data_ptr(), *map(_native.pointer, made),
        )  # fmt: skip
    return _four(
        [given.new_empty(0) if x is None else x.to(given.dtype) for x, given in zip(made, inputs, strict=True)]
    )


def _differentiate(
    leaves: Sequence[Tensor], scale: float, rows: Tensor | None, G: Sequence[Tensor], create_graph: bool = False
) -> list[Tensor | None]:
    """The same by the reference, None for leaves that need no gradient: the norms have none to V."""
    Q, K, V, threshold = leaves
    outputs = reference.inner_product_self_expression(Q, K, V, threshold, scale, rows)
    weights = [weight for out, weight in zip(outputs, G, strict=True) if out.requires_grad]
    through = [out for out in outputs if out.requires_grad]
    wanted = [x for x in leaves if x.requires_grad]
    found = iter(torch.autograd.grad(through, wanted, weights, create_graph=create_graph))
    return [next(found) if x.requires_grad else None for x in leaves]


def _four(tensors: list[Tensor]) -> Four:
    dQ, dK, dV, dthreshold = tensors
    return dQ, dK, dV, dthreshold


def _backward_fake(
    Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor, scale: float, rows: Tensor | None, zero_diagonal: bool,
    G: Tensor, G1: Tensor, G2: Tensor, wanted: list[bool],
) -> Four:  # fmt: skip
    inputs = (Q, K, V, threshold)
    return _four([x.new_empty(x.shape if wants else 0) for x, wants in zip(inputs, wanted, strict=True)])


_backward = register(
    "inner_product_self_expression_backward(Tensor Q, Tensor K, Tensor V, Tensor threshold, float scale, Tensor? rows, "
    "bool zero_diagonal, Tensor G, Tensor G1, Tensor G2, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    fake=_backward_fake,
)


class _InnerProduct(torch.autograd.Function):
    """Gradients to Q, K, V and the threshold. Under ``create_graph`` the reference is differentiated instead."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        Q, K, V, threshold, scale, rows, zero_diagonal = arguments
        ctx.save_for_backward(Q, K, V, threshold, rows)
        ctx.options = (scale, zero_diagonal)
        with below_autograd():
            out: tuple[Tensor, Tensor, Tensor] = _op(*arguments)
        return out

    @staticmethod
    def backward(ctx: Any, G: Tensor, G1: Tensor, G2: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        Q, K, V, threshold, rows = ctx.saved_tensors
        scale, zero_diagonal = ctx.options
        wanted = list(ctx.needs_input_grad[:4])
        if torch.is_grad_enabled():
            own = _own_column(Q, rows, zero_diagonal)
            found = _differentiate((Q, K, V, threshold), scale, own, (G, G1, G2), create_graph=True)
        else:
            made = _backward(Q, K, V, threshold, scale, rows, zero_diagonal, G, G1, G2, wanted)
            found = [x if wants else None for x, wants in zip(made, wanted, strict=True)]
        return *found, None, None, None


_op = register(
    "inner_product_self_expression(Tensor Q, Tensor K, Tensor V, Tensor threshold, float scale, Tensor? rows, "
    "bool zero_diagonal) -> (Tensor, Tensor, Tensor)",
    kernel=_kernel,
    fake=_fake,
    autograd=_InnerProduct,
    autocast=True,
)


# -------------------------------------------------------------------------------------------- without a threshold


class _Linear(torch.autograd.Function):
    """Ẑ and ‖c‖₂² as Q (KᵀV) and Q (KᵀK) less the diagonal. The backward takes up the forward's small products; under
    ``create_graph`` the reference is differentiated instead.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, Q: Tensor, K: Tensor, V: Tensor, scale: float, rows: Tensor | None, zero_diagonal: bool
    ) -> tuple[Tensor, Tensor]:
        KV, QKK = K.T @ V, Q @ (K.T @ K)
        Zhat, l2 = Q @ (scale * KV), (QKK * Q).sum(dim=1).mul_(scale**2)
        own = None
        if zero_diagonal:
            own_K, own_V = (K, V) if rows is None else (K.index_select(0, rows), V.index_select(0, rows))
            own = (Q * own_K).sum(dim=1, keepdim=True)
            Zhat.addcmul_(own, own_V, value=-scale)
            l2.sub_((scale * own[:, 0]).square()).clamp_min_(0.0)  # below 0 by rounding alone
        ctx.save_for_backward(Q, K, V, rows, KV, QKK, own)
        ctx.options = (scale, zero_diagonal)
        return Zhat, l2

    @staticmethod
    def backward(ctx: Any, G: Tensor, G2: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        Q, K, V, rows, KV, QKK, own = ctx.saved_tensors
        scale, zero_diagonal = ctx.options
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            outputs = reference.inner_product_self_expression(Q, K, V, None, scale, _own_column(Q, rows, zero_diagonal))
            inputs = [x for x, wants in zip((Q, K, V), wanted, strict=True) if wants]
            through, weights = [outputs[0]], [G]
            if outputs[2].requires_grad:  # V has no part in it
                through, weights = [outputs[0], outputs[2]], [G, G2]
            found = iter(torch.autograd.grad(through, inputs, weights, create_graph=True))
            return *(next(found) if wants else None for wants in wanted), None, None, None
        G, G2 = scale * G, (2 * scale**2) * G2[:, None]
        dKV = Q.T @ G
        dQ = (G @ KV.T).addcmul_(G2, QKK) if wanted[0] else None
        dK = (V @ dKV.T).addmm_(K, Q.T @ (G2 * Q)) if wanted[1] else None
        dV = K @ dKV if wanted[2] else None
        if own is not None:
            own_K, own_V = (K, V) if rows is None else (K.index_select(0, rows), V.index_select(0, rows))
            # ∂L/∂⟨q_b, k_r⟩ of the coefficient that was taken away
            down = (G * own_V).sum(dim=1, keepdim=True).addcmul_(G2, own).neg_()
            if dQ is not None:
                dQ.addcmul_(down, own_K)
            if dK is not None:
                dK.addcmul_(down, Q) if rows is None else dK.index_add_(0, rows, down * Q)
            if dV is not None:
                dV.addcmul_(own, G, value=-1) if rows is None else dV.index_add_(0, rows, own * G, alpha=-1)
        return dQ, dK, dV, None, None, None


def _without_threshold(
    Q: Tensor, K: Tensor, V: Tensor, scale: float, rows: Tensor | None, zero_diagonal: bool
) -> tuple[Tensor, Tensor]:
    """Ẑ and ‖c‖₂² for φ(s) = s by library calls, in the cheaper of the two orders of the products."""
    (B, dq), (N, dv) = Q.shape, V.shape
    if B * N * (dq + dv) > (B + N) * dq * (dq + dv):
        Zhat, l2 = _Linear.apply(Q, K, V, scale, rows, zero_diagonal)
        return Zhat, l2
    C = Q @ K.T
    own = _own_column(Q, rows, zero_diagonal)
    if own is not None:
        C = C.scatter(1, own[:, None], 0.0)
    return scale * (C @ V), scale**2 * C.square().sum(dim=1)


def inner_product_self_expression(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    threshold: Tensor | None = None,
    scale: float = 1.0,
    rows: Tensor | None = None,
    *,
    zero_diagonal: bool = True,
) -> InnerProductSelfExpression:
    r"""Express each query as a combination of samples: :math:`\hat Z_b = \sum_{j \ne r_b} c_{bj} v_j`,
    :math:`c_{bj} = \mathrm{scale} \cdot \phi(\langle q_b, k_j \rangle)`.

    Attention without softmax, with the row norms that the self-expressive loss penalizes. C is never stored: the
    backward computes it again.

    Args:
        Q: (B, dq) queries, float32, float64, float16 or bfloat16.
        K: (N, dq) keys, same dtype.
        V: (N, dv) values, same dtype. Of all three row-strided views are read in place by CUDA; the CPU packs them.
        threshold: one number as a tensor, in Q's dtype or float32 for 16-bit Q: φ(s) = sign(s) max(\|s\| − threshold,
            0), which receives a gradient. Taken as it is when negative (SENet's formula, which lets a learned threshold
            come back from below 0): then φ jumps at 0, and φ(0) = 0. ``None``: φ(s) = s.
        scale: factor of the coefficients (SENet: 1/dq).
        rows: (B,) int64, the sample that each query is. ``None`` where B = N: 0 … N − 1.
        zero_diagonal: leave out the coefficient of each query's own sample, ``rows[b]``. ``False`` for queries that are
            no samples; rows are not looked at then.

    Returns:
        ``(Zhat, l1, l2)``: Ẑ (B, dv) in the dtype of Q; ‖c_b‖₁ and ‖c_b‖₂² (B,) of the same coefficients, float32
        (float64 for float64). Without a threshold l1 is None: it has no linear-time form. A threshold of 0 streams it.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.
        IndexError: (CPU, with a threshold) a row outside [0, N). Elsewhere what indexing does in PyTorch.

    Gradients: to Q, K, V and the threshold, through all three results; 0 through a coefficient with \|s\| = threshold,
    and through \|c\| at 0. Twice differentiable; the second derivative goes through the reference and stores C.

    Cost: with a threshold 2·B·N·(dq + dv) FLOP; backward B·N·(6·dq + 4·dv) on the CPU and B·N·(10·dq + 6·dv) on CUDA,
    2·B·N·dq or more less for each input that needs no gradient; O((B + N)(dq + dv)) memory. Without a threshold
    2·(B + N)·dq·(dq + dv) FLOP by library calls, or B·N·(dq + dv) · 2 where that is less; the same memory.
    Precision: 16-bit inputs are multiplied and summed in float32; on CUDA c is rounded to TF32 before it meets V. On
    CUDA float32 products take TF32 where ``torch.set_float32_matmul_precision`` allows it. Under autocast everything is
    computed in float32.
    Deterministic with a threshold: fixed summation order, the same bits for any number of threads.

    Source: Zhang et al., *Learning a Self-Expressive Network for Subspace Clustering*, CVPR 2021, §3; released code.

    Example:
        >>> Q = K = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> inner_product_self_expression(Q, K, torch.eye(3), torch.tensor(0.5)).Zhat
        tensor([[0.0000, 0.3000, 0.0000],
                [0.3000, 0.0000, 0.1000],
                [0.0000, 0.1000, 0.0000]])
    """
    if threshold is not None:
        if not all(isinstance(x, Tensor) for x in (Q, K, V, threshold)):  # say so before the schema does
            _check(Q, K, V, threshold, rows, zero_diagonal)
        return InnerProductSelfExpression(*_op(Q, K, V, threshold, scale, rows, zero_diagonal))
    if all(isinstance(x, Tensor) for x in (Q, K, V)) and torch.is_autocast_enabled(Q.device.type):
        Q, K, V = (x.float() if x.dtype.itemsize == 2 else x for x in (Q, K, V))
    _check(Q, K, V, None, rows, zero_diagonal)
    given = Q.dtype
    with torch.autocast(Q.device.type, enabled=False):
        Q, K, V = (x.to(_checks.accumulation_dtype(x)) for x in (Q, K, V))
        Zhat, l2 = _without_threshold(Q, K, V, scale, rows, zero_diagonal)
        return InnerProductSelfExpression(Zhat.to(given), None, l2)
