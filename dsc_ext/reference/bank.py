"""How latent rows enter the memory bank, by index or first in, first out."""

from __future__ import annotations

import torch
from torch import Tensor

from dsc_ext.reference.batches import is_last_occurrence


def _into_bank(old: Tensor, Z: Tensor, bank: Tensor, normalize: bool, momentum: float) -> Tensor:
    """Return what is to stand in the bank for the rows ``old``, in its dtype."""
    compute = torch.float64 if torch.float64 in (bank.dtype, Z.dtype) else torch.float32
    mixed = Z.to(compute)
    if momentum != 0.0:
        mixed = momentum * old.to(compute) + (1.0 - momentum) * mixed
    if normalize:
        norm = mixed.norm(dim=1, keepdim=True)
        mixed = torch.where(norm > 0, mixed / norm, mixed)
    return mixed.to(bank.dtype)


def bank_scatter_(bank: Tensor, rows: Tensor, Z: Tensor, normalize: bool = False, momentum: float = 0.0) -> None:
    """Set bank[rows] = unit?(momentum · bank[rows] + (1 − momentum) · Z), the last duplicate winning."""
    keep = is_last_occurrence(rows, bank.shape[0])
    target = rows[keep]
    bank[target] = _into_bank(bank[target], Z[keep], bank, normalize, momentum)


def bank_push_(bank: Tensor, cursor: Tensor, Z: Tensor, normalize: bool = False) -> None:
    """Push Z, first in, first out: Z[b] goes to slot (cursor + b) mod capacity, then the cursor moves on by B."""
    capacity, batch = bank.shape[0], Z.shape[0]
    if capacity > 0:
        kept = Z[max(0, batch - capacity) :]
        slots = (cursor.reshape(()) + torch.arange(batch - kept.shape[0], batch, device=Z.device)) % capacity
        bank[slots] = _into_bank(bank[slots], kept, bank, normalize, 0.0)
        cursor.copy_((cursor + batch) % capacity)
