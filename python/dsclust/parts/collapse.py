"""What tells that a latent space has collapsed, or that C says nothing, without labels."""

from __future__ import annotations

import torch
from torch import Tensor

# Collapse: fewer directions than half of those that clusters in general position span (or that features can have), all
# samples in one direction, or coefficients that explain next to nothing.
_FEWEST_DIRECTIONS = 0.5
_LARGEST_COSINE = 0.9
_LARGEST_ERROR = 0.9


class CollapseWarning(UserWarning):
    """The latent space, or C, says too little to cluster by; the message gives the figure and its threshold."""


def complaints(latent: Tensor, C: Tensor, directions: int, n_clusters: int) -> list[str]:
    """Return what is wrong with latent rows (N, h) of unit length and C (N, N), a sentence each; none if all is well.

    directions: how many `n_clusters` clusters in general position span. Costs O(N h²) and the product C Z.
    """
    found = []
    spanned, fewest = effective_rank(latent), _FEWEST_DIRECTIONS * directions
    if spanned < fewest:
        found.append(
            f"the latent space has collapsed: {spanned:.1f} effective directions for {n_clusters} "
            f"clusters, fewer than {fewest:g}"
        )
    cosine = mean_cosine(latent)
    if cosine > _LARGEST_COSINE:
        found.append(
            f"the latent space has collapsed: the mean cosine of its rows is {cosine:.3f}, above {_LARGEST_COSINE}"
        )
    error = float((latent - C @ latent).square().sum() / latent.square().sum().clamp_min(1e-30))
    if error > _LARGEST_ERROR:
        found.append(
            f"the coefficients express next to nothing: the relative self-expression error is {error:.2f}, above "
            f"{_LARGEST_ERROR}"
        )
    return found


def effective_rank(Z: Tensor) -> float:
    """Return exp of the entropy of the singular values of Z (N, h), scaled to sum to one (Roy & Vetterli, EUSIPCO
    2007).

    Between 1, one direction, and min(N, h), all alike; 0 for Z = 0. Costs O(N h²).
    """
    strength = torch.linalg.svdvals(Z.double())
    total = strength.sum()
    if total == 0:
        return 0.0
    share = strength / total
    return float(torch.special.entr(share).sum().exp())


def mean_cosine(Z: Tensor) -> float:
    """Return the mean cosine of all pairs of rows of unit length (N, h), each with itself included: the squared length
    of their mean."""
    return float(Z.double().mean(dim=0).square().sum())
