"""What every op that steps rows of coefficients in place asks of its optimizer's arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from dsc_ext import _checks

_ADAM, _ADAMW, _PROXIMAL = range(3)  # Rule in csrc/common/row_step.h


def rule(decoupled: bool, proximal: bool) -> int:
    """Return what a launcher is to be told of the two options."""
    return _PROXIMAL if proximal else _ADAMW if decoupled else _ADAM


def check_moments(
    op: str, name: str, C: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None,
    storage: tuple[torch.dtype, ...],
) -> None:  # fmt: skip
    """Refuse moments and counts that do not fit C, called ``name``, or are of a dtype not in ``storage``."""
    for which, moment in (("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)):
        _checks.tensor(op, which, moment, 2, storage, C)
        assert moment is not None
        if moment.shape != C.shape:
            shape = tuple(C.shape)
            _checks.fail(op, f"{which} must have the shape of {name}, {shape}, got {tuple(moment.shape)}")
    assert exp_avg is not None and exp_avg_sq is not None
    if exp_avg.dtype != exp_avg_sq.dtype:
        described = _checks.describe(exp_avg_sq)
        _checks.fail(op, f"exp_avg_sq must be {exp_avg.dtype} like exp_avg, got {described}", TypeError)
    _checks.tensor(op, "step", step, 1, (torch.int64,), C)
    assert step is not None
    if step.shape[0] != C.shape[0]:
        n = C.shape[0]
        _checks.fail(op, f"step must be (n,) with n = {name}.shape[0] = {n}, got {tuple(step.shape)}")


def check_in_place(op: str, **written: Tensor | None) -> None:
    """Refuse tensors, given by their names, that are not contiguous, for a launcher writes to them."""
    for which, value in written.items():
        if value is not None and not value.is_contiguous():
            _checks.fail(op, f"{which} is written in place, so it must be contiguous, got strides {value.stride()}")


def check_state(
    op: str, name: str, C: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None,
    proximal: bool, grad_scale: Tensor | None, found_inf: Tensor | None,
) -> None:  # fmt: skip
    """Refuse an optimizer's state that does not fit C, called ``name``: none at all for a proximal step."""
    if proximal:
        for which, value in (("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq), ("step", step)):
            if value is not None:
                described = _checks.describe(value)
                _checks.fail(op, f"{which} must be None with proximal=True, which keeps no state, got {described}")
    else:
        storage = (C.dtype, torch.bfloat16) if C.dtype == torch.float32 else (C.dtype,)
        check_moments(op, name, C, exp_avg, exp_avg_sq, step, storage)
    check_in_place(op, **{name: C}, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq, step=step)
    for which, value in (("grad_scale", grad_scale), ("found_inf", found_inf)):
        if value is not None:
            _checks.tensor(op, which, value, value.dim() if isinstance(value, Tensor) else 0, (torch.float32,), C)
            if value.numel() != 1:
                _checks.fail(op, f"{which} must have one element, got {tuple(value.shape)}")


def check_gradient(op: str, G: Tensor, C: Tensor, M: Tensor, rows: Tensor | None) -> None:
    """Refuse G = ∂L/∂Ẑ unless it has a row of M's width for each row of the batch."""
    _checks.tensor(op, "G", G, 2, (C.dtype,), C)
    expected = (C.shape[0] if rows is None else rows.shape[0], M.shape[1])
    if G.shape != expected:
        _checks.fail(op, f"G must be (B, d) = {expected} as rows and M say, got {tuple(G.shape)}")
