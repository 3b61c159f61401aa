"""bank_scatter_ and bank_push_: how latent rows enter the memory bank, by index or first-in-first-out.

Both write in place, optionally mix with what is there (feature EMA), L2-normalize and cast to the bank's dtype, in one
pass over the rows concerned. Neither reads a device value on the host, so both can be captured in a CUDA graph.

Source: BDSC (arXiv 2507.19917, §3.1, "FIFO or index replacement"); feature EMA as in CMC's NCEAverage.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from dsc_ext import _checks, _native, reference
from dsc_ext._torch import plain
from dsc_ext.ops._register import register


def _check(op: str, bank: Tensor, Z: Tensor) -> None:
    _checks.tensor(op, "bank", bank, 2, _checks.STORAGE)
    _checks.tensor(op, "Z", Z, 2, _checks.STORAGE, bank)
    if Z.shape[1] != bank.shape[1]:
        _checks.fail(op, f"Z must be (B, d) with d = bank.shape[1] = {bank.shape[1]}, got {tuple(Z.shape)}")
    if not bank.is_contiguous() and bank.numel() and (bank.stride(1) != 1 or bank.stride(0) < bank.shape[1]):
        _checks.fail(op, f"bank is written in place, so its rows must be contiguous, got strides {bank.stride()}")


def _check_scatter(bank: Tensor, rows: Tensor, Z: Tensor, normalize: bool, momentum: float) -> None:
    op = "bank_scatter_"
    _check(op, bank, Z)
    _checks.tensor(op, "rows", rows, 1, (torch.int64,), bank)
    if rows.shape[0] != Z.shape[0]:
        _checks.fail(op, f"rows must be (B,) with B = Z.shape[0] = {Z.shape[0]}, got {tuple(rows.shape)}")
    if not 0.0 <= momentum < 1.0:
        _checks.fail(op, f"momentum must be in [0, 1), got {momentum}")


def _check_push(bank: Tensor, cursor: Tensor, Z: Tensor, normalize: bool) -> None:
    op = "bank_push_"
    _check(op, bank, Z)
    if not isinstance(cursor, Tensor) or cursor.dtype != torch.int64 or cursor.numel() != 1:
        _checks.fail(op, f"cursor must be an int64 tensor with one element, got {_checks.describe(cursor)}", TypeError)
    if cursor.device != bank.device:
        _checks.fail(op, f"cursor must be on {bank.device} like the other tensors, got {cursor.device}")


def _scatter_kernel(bank: Tensor, rows: Tensor, Z: Tensor, normalize: bool, momentum: float) -> None:
    _check_scatter(bank, rows, Z, normalize, momentum)
    native = _native.backend(bank)
    if native is None:
        return reference.bank_scatter_(bank, rows, Z, normalize, momentum)
    if Z.numel() == 0:
        return None
    rows, Z = rows.contiguous(), _native.row_major(Z)
    (N, d), B = bank.shape, rows.shape[0]
    words = native.rows_scratch(B)
    scratch = rows.new_empty(words) if words else None
    with _native.device_of(bank):
        native.bank_scatter_(
            _native.DTYPES[bank.dtype], _native.DTYPES[Z.dtype], _native.queue(bank),
            bank.data_ptr(), bank.stride(0), N, d,
            rows.data_ptr(), Z.data_ptr(), Z.stride(0), B, normalize, momentum, _native.pointer(scratch),
        )  # fmt: skip
    increment_version(bank)
    return None


def _push_kernel(bank: Tensor, cursor: Tensor, Z: Tensor, normalize: bool) -> None:
    _check_push(bank, cursor, Z, normalize)
    native = _native.backend(bank)
    if native is None:
        return reference.bank_push_(bank, cursor, Z, normalize)
    if Z.shape[0] == 0 or bank.shape[0] == 0:
        return None
    Z = _native.row_major(Z)
    with _native.device_of(bank):
        native.bank_push_(
            _native.DTYPES[bank.dtype], _native.DTYPES[Z.dtype], _native.queue(bank),
            bank.data_ptr(), bank.stride(0), bank.shape[0], bank.shape[1],
            cursor.data_ptr(), Z.data_ptr(), Z.stride(0), Z.shape[0], normalize,
        )  # fmt: skip
    increment_version((bank, cursor))
    return None


_scatter = register(
    "bank_scatter_(Tensor(a!) bank, Tensor rows, Tensor Z, bool normalize, float momentum) -> ()",
    kernel=_scatter_kernel,
    fake=_check_scatter,
)
_push = register(
    "bank_push_(Tensor(a!) bank, Tensor(b!) cursor, Tensor Z, bool normalize) -> ()",
    kernel=_push_kernel,
    fake=_check_push,
)


def bank_scatter_(bank: Tensor, rows: Tensor, Z: Tensor, *, normalize: bool = False, momentum: float = 0.0) -> Tensor:
    """Replace rows of the bank by index: ``bank[rows] = unit?(momentum · bank[rows] + (1 − momentum) · Z)``, in place.

    Args:
        bank: (N, d) float32, float64, float16 or bfloat16, rows contiguous; does not take part in autograd.
        rows: (B,) int64 slots to replace. Of duplicates the last wins, alone (earlier ones are not mixed in).
        Z: (B, d) new latent rows, any of the bank's dtypes; detached.
        normalize: scale each written row to unit L2 norm, after mixing; a zero row stays zero.
        momentum: share of the old row that is kept (feature EMA); 0 replaces.

    Returns:
        ``bank``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.
        IndexError: (CPU) a slot outside the bank; on CUDA a device-side assertion. The CPU then leaves the bank
            untouched.

    Cost: one pass over B·d numbers (two with ``normalize``). Mixed and normalized in float32 (float64 if either is
    float64). On the CPU duplicates are found in O(B); on CUDA by every row's own search up to 2048 rows, by a hash
    table above. Deterministic; capturable in a CUDA graph. Under autocast nothing is cast.
    """
    run = _scatter_kernel if plain(bank, rows, Z) else _scatter
    run(bank, rows, Z.detach() if Z.requires_grad else Z, normalize, momentum)
    return bank


def bank_push_(bank: Tensor, cursor: Tensor, Z: Tensor, *, normalize: bool = False) -> Tensor:
    """Push rows into the bank, first in, first out, in place.

    Row b of ``Z`` goes to slot ``(cursor + b) mod N``, then the cursor moves on by B.

    Args:
        bank: (N, d) float32, float64, float16 or bfloat16, rows contiguous; does not take part in autograd.
        cursor: int64 tensor with one element on the bank's device: the next slot to write. It lives on the device, so
            that a captured graph advances it on every replay.
        Z: (B, d) new latent rows, any of the bank's dtypes; detached. Of a batch larger than the bank the last N rows
            stay, in the slots they would have got had all been pushed.
        normalize: scale each written row to unit L2 norm; a zero row stays zero.

    Returns:
        ``bank``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.

    Cost: one pass over min(B, N)·d numbers. Deterministic; capturable in a CUDA graph. Under autocast nothing is
    cast.
    """
    _push(bank, cursor, Z.detach() if Z.requires_grad else Z, normalize)
    return bank
