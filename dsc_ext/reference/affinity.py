"""From coefficients to the affinity graph: which are kept, and both directions of an edge made one."""

from __future__ import annotations

import torch
from torch import Tensor

from dsc_ext._checks import accumulation_dtype


def topk_coefficients(
    C: Tensor, K: Tensor | None, k: int, rows: Tensor | None = None, signed: bool = False,
    zero_diagonal: bool = True, row_offset: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Select the k largest |c| (c if ``signed``) of each row, values and columns.

    c = C[rows, j], or ⟨C_b, K_j⟩ with K given.

    Largest first, NaN before everything, ties to the lowest column, never the sample's own; (0, −1) once none is left.
    """
    n, N = C.shape[0], (C if K is None else K).shape[1 if K is None else 0]
    own = torch.arange(row_offset, row_offset + n, device=C.device) if rows is None else rows
    if K is not None:
        wide = accumulation_dtype(C)
        c = C.to(wide) @ K.to(wide).T
    else:
        c = C if rows is None else C.index_select(0, rows - row_offset)
    excluded = torch.zeros_like(c, dtype=torch.bool)
    if zero_diagonal:
        excluded = torch.arange(N, device=C.device)[None, :] == own[:, None]
    order = (c if signed else c.abs()).detach().sort(dim=1, descending=True, stable=True).indices
    last = excluded.gather(1, order).sort(dim=1, stable=True)  # False before True, else as they were
    taken = min(k, N)
    columns = order.gather(1, last.indices)[:, :taken]
    none_left = last.values[:, :taken]
    values = c.gather(1, columns).masked_fill(none_left, 0.0)
    missing = (0, k - taken)
    return (
        torch.nn.functional.pad(values, missing),
        torch.nn.functional.pad(columns.masked_fill(none_left, -1), missing, value=-1),
    )


def threshold_coefficients(C: Tensor, rho: float) -> Tensor:
    """Keep of each row the smallest set of largest |c| whose sum exceeds ρ‖c‖₁: thrC of DSC-Net (Ji et al. 2017).

    Ties go to the lowest column. Rows with a non-finite ℓ1 norm are returned as they are.
    """
    if rho >= 1:
        return C.clone()
    magnitude = C.abs().double()
    total = magnitude.sum(dim=1, keepdim=True)
    order = magnitude.sort(dim=1, descending=True, stable=True)
    before = order.values.cumsum(dim=1) - order.values
    kept_sorted = (before <= rho * total) & (order.values > 0) | ~total.isfinite()
    kept = torch.zeros_like(C, dtype=torch.bool).scatter(1, order.indices, kept_sorted)
    return torch.where(kept, C, torch.zeros_like(C))


def symmetrize_affinity(
    values: Tensor, row: Tensor, column: Tensor, n: int, reduce: str = "mean", threshold: float = 0.0
) -> Tensor:
    """Make the dense (n, n) W from A and Aᵀ, A[i, j] = Σ |value| over the entries at (i, j) above the threshold.

    W is their mean, their maximum, or the probabilistic sum a + b − a·b of both clamped to at most 1. Negative columns
    are padding.
    """
    present = (column >= 0) & ~(values.abs() <= threshold)
    A = values.new_zeros(n, n).index_put((row[present], column[present]), values[present].abs(), accumulate=True)
    if reduce == "t-conorm":
        A = A.clamp(max=1)
        return A + A.T - A * A.T
    return (A + A.T) / 2 if reduce == "mean" else torch.maximum(A, A.T)
