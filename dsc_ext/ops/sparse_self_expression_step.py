"""sparse_self_expression_step_: the gradient of k coefficients a row, formed and consumed at once.

    dvalues[r_b, s] = ⟨G_b, M'[indices[r_b, s]]⟩,     then Adam or a proximal step on row r_b of values

The gradient of a row is k dots; they go from registers (on the CPU, from the stack) into the step. What is saved beside
autograd and an optimizer is not the dots but the passes around them: no (N, k) gradient, no second reading of it, and
rows outside the batch are not looked at.

Source: as in sparse_self_expression.py and self_expression_step.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from dsc_ext import _native, reference
from dsc_ext.ops._register import register
from dsc_ext.ops._stepping import check_gradient, check_state, rule
from dsc_ext.ops.sparse_self_expression import check_operands

_NAME = "sparse_self_expression_step_"


def _check(
    values: Tensor, indices: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None,
    G: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, decoupled: bool, l1: float, proximal: bool, zero_diagonal: bool, row_offset: int,
    grad_scale: Tensor | None, found_inf: Tensor | None,
) -> None:  # fmt: skip
    check_operands(_NAME, values, indices, M, rows, Z, zero_diagonal, row_offset)
    check_state(_NAME, "values", values, exp_avg, exp_avg_sq, step, proximal, grad_scale, found_inf)
    check_gradient(_NAME, G, values, M, rows)


def _kernel(
    values: Tensor, indices: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None,
    G: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, decoupled: bool, l1: float, proximal: bool, zero_diagonal: bool, row_offset: int,
    grad_scale: Tensor | None, found_inf: Tensor | None,
) -> None:  # fmt: skip
    arguments = (
        values, indices, exp_avg, exp_avg_sq, step, G, M, rows, Z, lr, beta1, beta2, eps, weight_decay, decoupled, l1,
        proximal, zero_diagonal, row_offset, grad_scale, found_inf,
    )  # fmt: skip
    _check(*arguments)
    native = _native.backend(values)
    if native is None:
        return reference.sparse_self_expression_step_(*arguments)
    (n, k), (N, d), B = values.shape, M.shape, G.shape[0]
    if B == 0:
        return None
    indices, G, M = _native.row_major(indices), _native.row_major(G), _native.row_major(M)
    rows = None if rows is None else rows.contiguous()
    Z = None if Z is None else _native.row_major(Z)
    slot = None if rows is None else rows.new_empty(max(N, row_offset + n), dtype=torch.int32)
    scratch = None
    if rows is not None:
        scratch = rows.new_empty(native.sparse_self_expression_step_scratch(n, B), dtype=torch.uint8)
    with _native.device_of(values):
        native.sparse_self_expression_step_(
            _native.DTYPES[values.dtype], _native.DTYPES[M.dtype], _native.queue(values),
            values.data_ptr(), indices.data_ptr(), indices.stride(0), n, row_offset, k,
            _native.DTYPES[values.dtype if exp_avg is None else exp_avg.dtype],
            _native.pointer(exp_avg), _native.pointer(exp_avg_sq), _native.pointer(step),
            G.data_ptr(), G.stride(0), _native.pointer(rows), B, M.data_ptr(), M.stride(0), N, d,
            _native.pointer(Z), 0 if Z is None else Z.stride(0), _native.pointer(slot),
            rule(decoupled, proximal), lr, beta1, beta2, eps, weight_decay, l1, zero_diagonal,
            _native.pointer(grad_scale), _native.pointer(found_inf), _native.pointer(scratch),
        )  # fmt: skip
    increment_version([tensor for tensor in (values, exp_avg, exp_avg_sq, step) if tensor is not None])
    return None


_op = register(
    "sparse_self_expression_step_(Tensor(a!) values, Tensor indices, Tensor(b!)? exp_avg, Tensor(c!)? exp_avg_sq,"
    " Tensor(d!)? step, Tensor G, Tensor M, Tensor? rows, Tensor? Z, float lr, float beta1, float beta2, float eps,"
    " float weight_decay, bool decoupled, float l1, bool proximal, bool zero_diagonal, int row_offset,"
    " Tensor? grad_scale, Tensor? found_inf) -> ()",
    kernel=_kernel,
    fake=_check,
)


def sparse_self_expression_step_(
    values: Tensor, indices: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None, G: Tensor,
    M: Tensor, rows: Tensor | None = None, Z: Tensor | None = None, *, lr: float,
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False,
    l1: float = 0.0, proximal: bool = False, zero_diagonal: bool = True, row_offset: int = 0,
    grad_scale: Tensor | None = None, found_inf: Tensor | None = None,
) -> Tensor:  # fmt: skip
    r"""Step k coefficients a row once from the gradient of Ẑ alone; their gradient is never stored.

    The same, to rounding, as :func:`dsc_ext.sparse_self_expression` under autograd followed by
    :class:`dsc_ext.RowAdam`. The arguments of the step are those of :func:`dsc_ext.self_expression_step_`.

    Args:
        values: (N, k) coefficients, float32 or float64, contiguous; or rows ``row_offset .. row_offset + n`` of them.
        indices: the same shape, int64: their columns; a negative one is padding.
        exp_avg, exp_avg_sq: moments, of the shape and dtype of ``values``; or both bfloat16 beside float32, then they
            are rounded stochastically, by a hash of element and step count.
        step: (n,) int64, how often each row has been stepped; counted up here.
        G: (B, d) gradient of the loss by Ẑ.
        M: (N, d) memory bank; the dtype of ``values``, or float16 or bfloat16 beside float32.
        rows: (B,) int64 global sample indices of the batch; ``None``: every row. Gradients of duplicates are added, and
            the row is stepped once.
        Z: (B, d) live rows that stood in for rows ``rows`` of M (the last duplicate wins), or ``None``.
        lr, betas, eps: as in ``torch.optim.Adam``.
        weight_decay: L2. Coupled, ``g += weight_decay · c``: the loss term ``λ‖C‖_F²`` is ``weight_decay = 2λ``.
        decoupled: decay as in ``torch.optim.AdamW`` instead, ``c ← c (1 − lr · weight_decay)`` before the step.
        l1: ``g += l1 · sign(c)``: the (sub)gradient of ``l1 · ‖C‖₁``.
        proximal: instead of Adam one step of ISTA, ``c ← soft(c − lr (g + weight_decay · c), lr · l1)``, which leaves
            exact zeros. ``exp_avg``, ``exp_avg_sq`` and ``step`` must then be ``None``.
        zero_diagonal: an entry that names its own row has no gradient of the data. Penalties and moments still act on
            it, and on padding, as they do under RowAdam.
        row_offset: global index of the first row of ``values``, when that is a shard.
        grad_scale: one float32 on the device by which G is divided, as ``torch.amp.GradScaler`` keeps it.
        found_inf: one float32 on the device; unless it is zero nothing is changed, not even ``step``.

    Returns:
        ``values``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.
        IndexError: (CPU) a row outside ``values`` or an index of N or more, and then nothing was changed; on CUDA a
            device-side assertion.

    Cost: 2·B·k·d FLOP, reads B·k·d numbers of the bank; 24·B·k bytes in float32 for the coefficients and their moments
    (16 with bfloat16 moments, 8 if proximal). Deterministic; never waits for the device; capturable in a CUDA graph.
    Not differentiable. Under autocast nothing is cast.

    Source: see the module.
    """
    _op(
        values, indices, exp_avg, exp_avg_sq, step, G, M, rows, Z, lr, betas[0], betas[1], eps, weight_decay,
        decoupled, l1, proximal, zero_diagonal, row_offset, grad_scale, found_inf,
    )  # fmt: skip
    return values
