"""What every op that steps rows of coefficients in place asks of its optimizer's arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from dsc_ext import _checks

_ADAM, _ADAMW, _PROXIMAL = range(3)  # Rule in csrc/common/row_step.h


def rule(decoupled: bool, proximal: bool) -> int:
    """What a launcher is to be told of the two options."""
    return _PROXIMAL if proximal else _ADAMW if decoupled else _ADAM


def check_state(
    name: str, parameter: str, C: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None,
    proximal: bool, grad_scale: Tensor | None, found_inf: Tensor | None,
) -> None:  # fmt: skip
    """Moments and counts that fit C (called ``parameter``), all contiguous; none of them for a proximal step."""
    state = (("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq), ("step", step))
    if proximal:
        for which, value in state:
            if value is not None:
                described = _checks.describe(value)
                _checks.fail(name, f"{which} must be None with proximal=True, which keeps no state, got {described}")
    else:
        storage = (C.dtype, torch.bfloat16) if C.dtype == torch.float32 else (C.dtype,)
        for which, moment in state[:2]:
            _checks.tensor(name, which, moment, 2, storage, C)
            assert moment is not None
            if moment.shape != C.shape:
                shape = tuple(C.shape)
                _checks.fail(name, f"{which} must have the shape of {parameter}, {shape}, got {tuple(moment.shape)}")
        assert exp_avg is not None and exp_avg_sq is not None
        if exp_avg.dtype != exp_avg_sq.dtype:
            described = _checks.describe(exp_avg_sq)
            _checks.fail(name, f"exp_avg_sq must be {exp_avg.dtype} like exp_avg, got {described}", TypeError)
        _checks.tensor(name, "step", step, 1, (torch.int64,), C)
        assert step is not None
        if step.shape[0] != C.shape[0]:
            n = C.shape[0]
            _checks.fail(name, f"step must be (n,) with n = {parameter}.shape[0] = {n}, got {tuple(step.shape)}")
    for which, value in ((parameter, C), *state):
        if value is not None and not value.is_contiguous():
            _checks.fail(name, f"{which} is written in place, so it must be contiguous, got strides {value.stride()}")
    for which, value in (("grad_scale", grad_scale), ("found_inf", found_inf)):
        if value is not None:
            _checks.tensor(name, which, value, value.dim() if isinstance(value, Tensor) else 0, (torch.float32,), C)
            if value.numel() != 1:
                _checks.fail(name, f"{which} must have one element, got {tuple(value.shape)}")
