"""Labels of new samples where C has a row for the fitted ones alone.

Owns the closed form: a new latent row is written as a ridge combination of the fitted samples' rows, and they vote with
their coefficients. The setting is that of `dsclust.baselines.ridge_labels`: centered unit rows, λ = N/K, the 5 largest.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dsc_ext import topk_coefficients
from dsclust.ridge import ridge_solution, unit_rows

VOTERS = 5


class CoefficientVote(nn.Module):
    """Latent rows (n, h) to votes (n, K): the sum of each cluster's share in a row's largest coefficients.

    With Z the fitted rows, scaled to unit length, centered and scaled again, and z a new row treated alike,
    ``c = z Zᵀ (Z Zᵀ + λ I)⁻¹``; its 5 largest positive entries vote for the clusters of their samples. A fitted
    sample is its own strongest voter, so it keeps its label but where its cluster left it alone. Memory O(N h), as much
    as Z; a row costs O(N h).
    """

    def __init__(self, mean: Tensor, solution: Tensor, labels: Tensor, n_clusters: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.solution: Tensor
        self.labels: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("solution", solution)
        self.register_buffer("labels", labels)
        self.n_clusters = n_clusters

    @classmethod
    def fit(cls, latent: Tensor, labels: Tensor, n_clusters: int) -> CoefficientVote:
        """From the latent rows (N, h) of the fitted samples and their clusters (N,). O(N h min(N, h))."""
        Z, mean = unit_rows(latent)
        return cls(mean, ridge_solution(Z, len(Z) / n_clusters).T, labels, n_clusters)

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], n_clusters: int) -> CoefficientVote:
        return cls(tensors["mean"], tensors["solution"], tensors["labels"], n_clusters)

    def forward(self, latent: Tensor) -> Tensor:
        rows, _ = unit_rows(latent, self.mean)
        voters = min(VOTERS, self.labels.shape[0])
        values, indices = topk_coefficients((rows, self.solution), voters, signed=True, zero_diagonal=False)
        votes = rows.new_zeros(rows.shape[0], self.n_clusters)
        return votes.scatter_add_(1, self.labels[indices], values.clamp_min(0.0))
