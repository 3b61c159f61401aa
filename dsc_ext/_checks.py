"""Argument checks shared by the ops: every message names the op, the argument, what came and what was expected.

Checks look at types, shapes, dtypes and devices only, never at values: reading a value would synchronize a GPU and
break CUDA graphs. The kernels themselves guard what depends on values (row indices out of range).
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

REAL = (torch.float32, torch.float64)
STORAGE = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def fail(op: str, message: str, kind: type[Exception] = ValueError) -> NoReturn:
    raise kind(f"{op}: {message}")


def describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
    return f"{type(value).__name__} {value!r}"


def tensor(
    op: str, name: str, value: object, ndim: int, dtypes: tuple[torch.dtype, ...], like: Tensor | None = None
) -> None:
    """Raises unless ``value`` is a tensor with ``ndim`` dimensions and one of ``dtypes``, on the device of ``like``."""
    if not isinstance(value, Tensor):
        fail(op, f"{name} must be a tensor, got {describe(value)}", TypeError)
    if value.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        fail(op, f"{name} must be {names}, got {describe(value)}", TypeError)
    if value.dim() != ndim:
        fail(op, f"{name} must be {ndim}-D, got {describe(value)}")
    if like is not None and value.device != like.device:
        fail(op, f"{name} must be on {like.device} like the other tensors, got {describe(value)}")
