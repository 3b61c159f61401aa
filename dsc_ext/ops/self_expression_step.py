"""self_expression_step_: the gradient of C formed tile by tile and consumed at once by Adam or a proximal step.

    dC = G M'ᵀ off the diagonal,     M' = the bank M with rows r replaced by the live batch Z,     C[r] ← step(C[r], dC)

Training C by autograd stores dC, N² numbers in full batch, reads it back for the optimizer, and does both in passes of
their own over memory. Here a tile of dC lives between its product and its update, in the first-level cache or in
registers: 12·N² bytes for C and its moments, 24·B·N bytes of traffic a step.

Source of dC: DSC-Net (Ji et al., NIPS 2017, §3). Of the steps: Kingma & Ba, *Adam*, ICLR 2015, Algorithm 1, per row;
Loshchilov & Hutter, *Decoupled weight decay regularization*, ICLR 2019; Beck & Teboulle, *A fast iterative
shrinkage-thresholding algorithm*, SIAM J. Imaging Sciences 2009, §1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from dsc_ext import _native, reference
from dsc_ext._torch import plain
from dsc_ext.ops._register import register
from dsc_ext.ops._stepping import check_gradient, check_state, rule
from dsc_ext.ops.self_expression import check_operands

_NAME = "self_expression_step_"
_ALIGNMENT = 64  # of scratch


def _check(
    C: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None, G: Tensor, M: Tensor,
    rows: Tensor | None, Z: Tensor | None, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    decoupled: bool, l1: float, proximal: bool, zero_diagonal: bool, row_offset: int,
    grad_scale: Tensor | None, found_inf: Tensor | None,
) -> None:  # fmt: skip
    check_operands(_NAME, C, M, rows, Z, zero_diagonal, row_offset)
    check_state(_NAME, "C", C, exp_avg, exp_avg_sq, step, proximal, grad_scale, found_inf)
    check_gradient(_NAME, G, C, M, rows)


def _kernel(
    C: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None, G: Tensor, M: Tensor,
    rows: Tensor | None, Z: Tensor | None, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    decoupled: bool, l1: float, proximal: bool, zero_diagonal: bool, row_offset: int,
    grad_scale: Tensor | None, found_inf: Tensor | None,
) -> None:  # fmt: skip
    arguments = (
        C, exp_avg, exp_avg_sq, step, G, M, rows, Z, lr, beta1, beta2, eps, weight_decay, decoupled, l1, proximal,
        zero_diagonal, row_offset, grad_scale, found_inf,
    )  # fmt: skip
    _check(*arguments)
    native = _native.backend(C)
    if native is None:
        return reference.self_expression_step_(*arguments)
    (n, N), (B, d) = C.shape, G.shape
    if B == 0 or N == 0:
        return None
    rates = (rule(decoupled, proximal), lr, beta1, beta2, eps, weight_decay, l1)
    moments = _native.DTYPES[C.dtype if exp_avg is None else exp_avg.dtype]
    rows = None if rows is None else rows.contiguous()
    G, M, Z = _native.row_major(G), _native.row_major(M), None if Z is None else _native.row_major(Z)
    slot = None if rows is None else rows.new_empty(max(N, row_offset + n), dtype=torch.int32)
    dtype, queue = _native.DTYPES[C.dtype], _native.queue(C)
    bytes_needed = native.self_expression_step_scratch(dtype, queue, B, N, d)
    scratch = torch.empty(bytes_needed + _ALIGNMENT, dtype=torch.uint8, device=C.device)
    with _native.device_of(C):
        native.self_expression_step_(
            dtype, queue, _native.tf32(C),
            C.data_ptr(), n, row_offset,
            moments, _native.pointer(exp_avg), _native.pointer(exp_avg_sq), _native.pointer(step),
            G.data_ptr(), G.stride(0), _native.pointer(rows), B,
            M.data_ptr(), M.stride(0), N, d,
            _native.pointer(Z), 0 if Z is None else Z.stride(0), _native.pointer(slot),
            *rates, zero_diagonal,
            _native.pointer(grad_scale), _native.pointer(found_inf),
            scratch.data_ptr() + -scratch.data_ptr() % _ALIGNMENT,
        )  # fmt: skip
    increment_version([tensor for tensor in (C, exp_avg, exp_avg_sq, step) if tensor is not None])
    return None


_op = register(
    "self_expression_step_(Tensor(a!) C, Tensor(b!)? exp_avg, Tensor(c!)? exp_avg_sq, Tensor(d!)? step, Tensor G,"
    " Tensor M, Tensor? rows, Tensor? Z, float lr, float beta1, float beta2, float eps, float weight_decay,"
    " bool decoupled, float l1, bool proximal, bool zero_diagonal, int row_offset, Tensor? grad_scale,"
    " Tensor? found_inf) -> ()",
    kernel=_kernel,
    fake=_check,
)


def self_expression_step_(
    C: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None, G: Tensor, M: Tensor,
    rows: Tensor | None = None, Z: Tensor | None = None, *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False, l1: float = 0.0, proximal: bool = False,
    zero_diagonal: bool = True, row_offset: int = 0, grad_scale: Tensor | None = None, found_inf: Tensor | None = None,
) -> Tensor:  # fmt: skip
    r"""Step C once from the gradient of Ẑ alone; the gradient of C is never stored.

    The same, to rounding, as :func:`dsc_ext.self_expression` under autograd followed by :class:`dsc_ext.RowAdam`.

    Args:
        C: (N, N) coefficient matrix, float32 or float64, contiguous; or its rows ``row_offset .. row_offset + n``; or
            (n, m) against m landmarks with ``zero_diagonal=False``.
        exp_avg, exp_avg_sq: moments, of C's shape and dtype; or both bfloat16 with C in float32, then they are rounded
            stochastically, by a hash of element and step count (to nearest, a second moment would stand still).
        step: (n,) int64, how often each row has been stepped; counted up here.
        G: (B, d) gradient of the loss by Ẑ.
        M: (N, d) memory bank; in full batch the live rows themselves.
        rows: (B,) int64 global sample indices of the batch; ``None``: every row of C. Gradients of duplicates are
            added, and the row is stepped once.
        Z: (B, d) live rows that stood in for rows ``rows`` of M (the last duplicate wins), or ``None``.
        lr, betas, eps: as in ``torch.optim.Adam``.
        weight_decay: L2. Coupled, ``g += weight_decay · c``, the gradient of ``weight_decay/2 · ‖C‖_F²``: the loss term
            ``λ‖C‖_F²`` is ``weight_decay = 2λ``.
        decoupled: decay as in ``torch.optim.AdamW`` instead, ``c ← c (1 − lr · weight_decay)`` before the step.
        l1: ``g += l1 · sign(c)``: the (sub)gradient of ``l1 · ‖C‖₁``.
        proximal: instead of Adam one step of ISTA, ``c ← soft(c − lr (g + weight_decay · c), lr · l1)``, which leaves
            exact zeros. ``exp_avg``, ``exp_avg_sq`` and ``step`` must then be ``None``; betas, eps and decoupled play
            no part.
        zero_diagonal: the forward excluded each sample from its own combination, so the diagonal has no gradient of the
            data. Penalties and moments still act on it, as they do under RowAdam.
        row_offset: global index of C's first row, when C is a shard.
        grad_scale: one float32 on C's device by which G is divided, as ``torch.amp.GradScaler`` keeps it.
        found_inf: one float32 on C's device; unless it is zero nothing is changed, not even ``step``.

    Returns:
        ``C``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.
        IndexError: (CPU) a row outside C, and then nothing was changed; on CUDA a device-side assertion.

    Cost: 2·B·N·d FLOP; 24·B·N bytes in float32, 16·B·N with bfloat16 moments, 8·B·N if proximal. Scratch: at
    most 4.5 MB a thread on a CPU. Deterministic, the same bits for any number of threads; never waits for the device;
    capturable in a CUDA graph. Not differentiable. Under autocast nothing is cast.

    Source: see the module.
    """
    run = _kernel if plain(C, M, Z) else _op
    run(
        C, exp_avg, exp_avg_sq, step, G, M, rows, Z, lr, betas[0], betas[1], eps, weight_decay, decoupled, l1, proximal,
        zero_diagonal, row_offset, grad_scale, found_inf,
    )  # fmt: skip
    return C
