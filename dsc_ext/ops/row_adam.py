"""row_adam_: exact Adam on some rows of the coefficient matrix, each row with its own step count, in one pass.

Dense Adam would keep moving rows outside the batch by stale momentum (measured to ruin BDSC); a row here moves when its
sample is in the batch and at no other time. The coupled penalties are those of the loss: ``λ‖C‖_F²`` is
``weight_decay = 2λ`` and ``λ‖C‖₁`` is ``l1 = λ``, so neither needs autograd.

Source: Kingma & Ba, *Adam*, ICLR 2015, Algorithm 1, per row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from dsc_ext import _checks, _native, reference
from dsc_ext.ops._register import register
from dsc_ext.ops._stepping import check_in_place, check_moments

_NAME = "row_adam_"


def _check(
    C: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor, rows: Tensor | None, grad: Tensor,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, l1: float,
) -> None:  # fmt: skip
    _checks.tensor(_NAME, "C", C, 2, _checks.REAL)
    check_moments(_NAME, "C", C, exp_avg, exp_avg_sq, step, (C.dtype,))
    check_in_place(_NAME, C=C, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq, step=step)
    _checks.tensor(_NAME, "grad", grad, 2, (C.dtype,), C)
    touched = C.shape[0]
    if rows is not None:
        _checks.tensor(_NAME, "rows", rows, 1, (torch.int64,), C)
        touched = rows.shape[0]
    if grad.shape != (touched, C.shape[1]):
        _checks.fail(_NAME, f"grad must be {(touched, C.shape[1])} as rows and C say, got {tuple(grad.shape)}")


def _kernel(
    C: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor, rows: Tensor | None, grad: Tensor,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, l1: float,
) -> None:  # fmt: skip
    rates = (lr, beta1, beta2, eps, weight_decay, l1)
    _check(C, exp_avg, exp_avg_sq, step, rows, grad, *rates)
    native = _native.backend(C)
    if native is None:
        return reference.row_adam_(C, exp_avg, exp_avg_sq, step, rows, grad, *rates)
    if grad.numel() == 0:
        return None
    grad = _native.row_major(grad)
    scratch = None
    if rows is not None:
        rows = rows.contiguous()
        scratch = rows.new_empty(native.rows_scratch(rows.shape[0]))
    with _native.device_of(C):
        native.row_adam_(
            _native.DTYPES[C.dtype], _native.queue(C),
            C.data_ptr(), exp_avg.data_ptr(), exp_avg_sq.data_ptr(), step.data_ptr(), C.shape[0], C.shape[1],
            _native.pointer(rows), grad.data_ptr(), grad.stride(0), grad.shape[0],
            *rates, _native.pointer(scratch),
        )  # fmt: skip
    increment_version((C, exp_avg, exp_avg_sq, step))
    return None


_op = register(
    "row_adam_(Tensor(a!) C, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) step, Tensor? rows, Tensor grad,"
    " float lr, float beta1, float beta2, float eps, float weight_decay, float l1) -> ()",
    kernel=_kernel,
    fake=_check,
)


def row_adam_(
    C: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    rows: Tensor | None,
    grad: Tensor,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    l1: float = 0.0,
) -> Tensor:
    """Step rows ``rows`` of C by Adam once, in place; all other rows keep value, moments and step count.

    Args:
        C, exp_avg, exp_avg_sq: (n, m) float32 or float64, contiguous; parameter, first and second moment.
        step: (n,) int64, how often each row has been stepped; counted up here.
        rows: (B,) int64 local rows; ``None`` means all of them. Gradients of duplicate rows are added.
        grad: (B, m) gradient of those rows, without the penalties.
        lr, betas, eps: as in ``torch.optim.Adam``.
        weight_decay: coupled L2, ``g += weight_decay · c``: the gradient of ``weight_decay/2 · ‖C‖_F²``.
        l1: ``g += l1 · sign(c)``: the (sub)gradient of ``l1 · ‖C‖₁``.

    Returns:
        ``C``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.
        IndexError: (CPU) a row outside C, and then nothing was changed; on CUDA a device-side assertion.

    Cost: 28·B·m bytes in float32 (reads C, m, v, grad; writes C, m, v). Deterministic; capturable in a CUDA graph.
    Under autocast nothing is cast.
    """
    _op(C, exp_avg, exp_avg_sq, step, rows, grad, lr, betas[0], betas[1], eps, weight_decay, l1)
    return C
