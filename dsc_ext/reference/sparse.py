"""Self-expression with k coefficients a row, and the two halves of its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from dsc_ext.reference.batches import last_occurrence, splice


def sparse_support(
    indices: Tensor, rows: Tensor | None, N: int, zero_diagonal: bool, row_offset: int
) -> tuple[Tensor, Tensor]:
    """Return local rows (B,) and columns (B, k) of the batch's coefficients; N stands for what does not count."""
    local = torch.arange(indices.shape[0], device=indices.device) if rows is None else rows - row_offset
    columns = indices.index_select(0, local)
    if zero_diagonal:
        columns = columns.masked_fill(columns == (local + row_offset)[:, None], N)
    return local, columns.masked_fill(columns < 0, N)


def gathered(M: Tensor, rows: Tensor | None, Z: Tensor | None, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, k, d): the rows of the spliced bank at ``columns``, zero at column N."""
    spliced = M.to(dtype) if rows is None else splice(M.to(dtype), rows, Z)
    return torch.cat([spliced, spliced.new_zeros(1, M.shape[1])])[columns]


def sparse_self_expression(
    values: Tensor, indices: Tensor, M: Tensor, rows: Tensor | None = None, Z: Tensor | None = None,
    zero_diagonal: bool = True, row_offset: int = 0,
) -> Tensor:  # fmt: skip
    """Return Ẑ_b = Σ_s values[r_b, s] M'[indices[r_b, s]] over the entries that are not padding."""
    local, columns = sparse_support(indices, rows, M.shape[0], zero_diagonal, row_offset)
    terms = values.index_select(0, local)[..., None] * gathered(M, rows, Z, columns, values.dtype)
    return terms.sum(dim=1)


def sparse_self_expression_grad(
    G: Tensor, indices: Tensor, M: Tensor, rows: Tensor | None = None, Z: Tensor | None = None,
    zero_diagonal: bool = True, row_offset: int = 0,
) -> Tensor:  # fmt: skip
    """Return (B, k) ⟨G_b, M'[indices[r_b, s]]⟩, the gradient of the batch's rows of values; zero for padding."""
    _, columns = sparse_support(indices, rows, M.shape[0], zero_diagonal, row_offset)
    return (G[:, None, :] * gathered(M, rows, Z, columns, G.dtype)).sum(dim=2)


def sparse_self_expression_transposed(
    G: Tensor, values: Tensor, indices: Tensor, rows: Tensor | None, N: int, spliced: bool, bank: bool, live: bool,
    zero_diagonal: bool = True, row_offset: int = 0,
) -> Tensor:  # fmt: skip
    """Return the gradients of the bank (N rows, if ``bank``) and of the live rows (B, if ``live``), stacked."""
    local, columns = sparse_support(indices, rows, N, zero_diagonal, row_offset)
    owner = torch.arange(N + 1, device=G.device)
    if spliced and rows is not None:
        owner[rows] = N + 1 + last_occurrence(rows, N)
    terms = values.index_select(0, local)[..., None] * G[:, None, :]
    total = G.new_zeros(N + 1 + G.shape[0], G.shape[1]).index_add(0, owner[columns.flatten()], terms.flatten(0, 1))
    return torch.cat([total[: N if bank else 0], total[N + 1 if live else total.shape[0] :]])
