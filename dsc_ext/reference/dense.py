"""Self-expression with a coefficient for every pair of samples, stored or as inner products."""

from __future__ import annotations

import torch
from torch import Tensor

from dsc_ext._checks import accumulation_dtype
from dsc_ext.reference.batches import splice, without_diagonal


def self_expression(
    C: Tensor, M: Tensor, rows: Tensor | None = None, Z: Tensor | None = None,
    zero_diagonal: bool = True, row_offset: int = 0,
) -> Tensor:  # fmt: skip
    """Return Ẑ_b = Σ_j C[rows_b, j] M'_j over j ≠ rows_b.

    M' is the bank in which rows ``rows`` are the live ``Z``.
    """
    if rows is None:
        rows = torch.arange(row_offset, row_offset + C.shape[0], device=C.device)
    C_rows = C.index_select(0, rows - row_offset)
    if zero_diagonal:
        C_rows = without_diagonal(C_rows, rows)
    return C_rows @ splice(M, rows, Z)


def inner_product_self_expression(
    Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor | None = None, scale: float = 1.0, rows: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Ẑ = C V, ‖c_b‖₁ and ‖c_b‖₂² with C = scale · φ(Q Kᵀ), zero in column ``rows[b]`` of row b where given.

    φ(s) = sign(s) max(|s| − threshold, 0), or the identity. 16-bit numbers are computed with in float32.
    """
    compute = accumulation_dtype(Q)
    C = Q.to(compute) @ K.to(compute).T
    if threshold is not None:
        C = C.sign() * (C.abs() - threshold.to(compute)).relu()
    if rows is not None:
        C = without_diagonal(C, rows)
    C = scale * C
    return (C @ V.to(compute)).to(Q.dtype), C.abs().sum(dim=1), C.square().sum(dim=1)
