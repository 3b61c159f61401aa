"""Batches against a memory bank: which of duplicate rows counts, live rows in the bank, the diagonal."""

from __future__ import annotations

import torch
from torch import Tensor


def last_occurrence(rows: Tensor, n: int) -> Tensor:
    """Return (B,) int64: for each position the last one with the same row (of ``n``), to which duplicates resolve."""
    position = torch.arange(rows.shape[0], device=rows.device)
    return rows.new_full((n,), -1).scatter_reduce(0, rows, position, "amax")[rows]


def is_last_occurrence(rows: Tensor, n: int) -> Tensor:
    """Return (B,) bool: whether position ``b`` holds the last occurrence of ``rows[b]``."""
    return last_occurrence(rows, n) == torch.arange(rows.shape[0], device=rows.device)


def splice(M: Tensor, rows: Tensor, Z: Tensor | None) -> Tensor:
    """Return the bank ``M`` (N, d) with rows ``rows`` replaced by the live ``Z`` (B, d); the last duplicate wins."""
    if Z is None:
        return M
    keep = is_last_occurrence(rows, M.shape[0])
    return M.index_copy(0, rows[keep], Z[keep])


def without_diagonal(C_rows: Tensor, rows: Tensor) -> Tensor:
    """Return ``C_rows`` (B, N) with the entry of each row's own sample, column ``rows[b]``, set to zero."""
    columns = torch.arange(C_rows.shape[1], device=C_rows.device)
    return C_rows.masked_fill(columns[None, :] == rows[:, None], 0.0)
