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


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which ``x`` is multiplied and summed: its own, float32 for 16-bit numbers."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def fail(op: str, message: str, kind: type[Exception] = ValueError) -> NoReturn:
    """Raise ``kind`` with a message that begins with the op."""
    raise kind(f"{op}: {message}")


def describe(value: object) -> str:
    """Return what came, in words: shape, dtype and device of a tensor, type and value of anything else."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
    return f"{type(value).__name__} {value!r}"


def tensor(
    op: str, name: str, value: object, ndim: int, dtypes: tuple[torch.dtype, ...], like: Tensor | None = None
) -> None:
    """Refuse ``value`` unless it is an ``ndim``-D tensor of one of ``dtypes``, on the device of ``like``."""
    if not isinstance(value, Tensor):
        fail(op, f"{name} must be a tensor, got {describe(value)}", TypeError)
    if value.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        fail(op, f"{name} must be {names}, got {describe(value)}", TypeError)
    if value.dim() != ndim:
        fail(op, f"{name} must be {ndim}-D, got {describe(value)}")
    if like is not None and value.device != like.device:
        fail(op, f"{name} must be on {like.device} like the other tensors, got {describe(value)}")


def batch(
    op: str, name: str, C: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None,
    zero_diagonal: bool, row_offset: int,
) -> None:  # fmt: skip
    """Refuse ``rows``, ``Z`` and ``row_offset`` unless they fit the coefficients C, called ``name``, and the bank M."""
    if rows is not None:
        tensor(op, "rows", rows, 1, (torch.int64,), C)
    if Z is not None:
        if rows is None:
            fail(op, "Z is spliced into M at rows, so rows must be given with it, got rows=None")
        tensor(op, "Z", Z, 2, (C.dtype,), C)
        if Z.shape[0] != rows.shape[0] or Z.shape[1] != M.shape[1]:
            expected = (rows.shape[0], M.shape[1])
            fail(op, f"Z must be (B, d) = {expected} as rows and M say, got {tuple(Z.shape)}")
    n, N = C.shape[0], M.shape[0]
    if (zero_diagonal or Z is not None) and not 0 <= row_offset <= N - n:
        fail(
            op,
            f"{name} must be rows row_offset .. row_offset + n of N = M.shape[0] = {N} when the diagonal is zeroed or "
            f"live rows are spliced in; got {name} {tuple(C.shape)} with row_offset = {row_offset}",
        )
