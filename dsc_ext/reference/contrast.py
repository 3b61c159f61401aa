"""The contrastive loss against the memory bank."""

from __future__ import annotations

import torch
from torch import Tensor

from dsc_ext._checks import accumulation_dtype


def negative_scores(anchor: Tensor, bank: Tensor, rows: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """Return (B, N) ⟨a_b, m_j⟩ / τ, −inf at column ``rows[b]`` and at the columns of ``mask[b]``.

    Negative columns of the mask are padding.
    """
    compute = accumulation_dtype(anchor)
    scores = anchor.to(compute) @ bank.detach().to(compute).T / temperature
    N = scores.shape[1]
    left_out = rows[:, None] if mask is None else torch.cat((rows[:, None], mask), dim=1)
    column = torch.where(left_out < 0, N, left_out)  # padding goes to one column more
    excluded = torch.zeros(scores.shape[0], N + 1, dtype=torch.bool, device=scores.device).scatter(1, column, True)
    return scores.masked_fill(excluded[:, :N], -torch.inf)


def info_nce(
    anchor: Tensor, positive: Tensor, bank: Tensor, rows: Tensor, mask: Tensor | None = None, temperature: float = 0.2
) -> Tensor:
    """Return (B,) −log of the softmax share of ⟨a_b, p_b⟩ / τ among itself and the negatives.

    It is the cross-entropy of class 0.
    """
    negative = negative_scores(anchor, bank, rows, mask, temperature)
    own = (anchor.to(negative.dtype) * positive.to(negative.dtype)).sum(1, keepdim=True) / temperature
    return torch.cat((own, negative), dim=1).logsumexp(1) - own[:, 0]


def info_nce_expected(
    anchor: Tensor, positive: Tensor, bank: Tensor, rows: Tensor, mask: Tensor | None = None, temperature: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Return ``info_nce`` and the expected negatives (B, d), Σ_j softmax_j m_j over them; 0 where there are none."""
    negative = negative_scores(anchor, bank, rows, mask, temperature)
    weights = negative.softmax(dim=1).masked_fill((negative == -torch.inf).all(dim=1, keepdim=True), 0.0)
    return info_nce(anchor, positive, bank, rows, mask, temperature), weights @ bank.to(negative.dtype)
