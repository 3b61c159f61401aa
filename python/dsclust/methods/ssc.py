"""Sparse subspace clustering at scale: each sample by its nearest others, one small problem a row.

The support of row i are the `support` rows of largest |⟨z_i, z_j⟩| among the centered unit rows, found without an N×N
matrix; on it stands one of

    ridge          ‖z_i − Σ_s c_s z_s‖² + λ ‖c‖²                     one Cholesky factorization
    elastic_net    ½ ‖z_i − Σ_s c_s z_s‖² + τ ‖c‖₁ + ½ λ ‖c‖²        the path of its solutions (EnSC)
    omp            orthogonal matching pursuit, `n_nonzero` of them  (SSC-OMP)

Sources: Elhamifar & Vidal, TPAMI 2013 (few others are enough); You, Li, Robinson & Vidal, CVPR 2016 (EnSC, which moves
its support until it is optimal; here it stays where the products are largest); You, Robinson & Vidal, CVPR 2016
(SSC-OMP). λ and the size of the support were settled on MNIST with its labels in view: a development choice, kept for
all data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dsc_ext import elastic_net_on_support, omp_on_support, ridge_on_support, topk_coefficients
from dsclust.checks import integer, number, one_of
from dsclust.names import Solver, words
from dsclust.parts.closed_form import CenteredForm, CenteredRows
from dsclust.parts.method import ClosedFormMethod, Pretrained, Problem, register_method
from dsclust.presets import Preset


@register_method
@dataclass(frozen=True)
class SSCMethod(ClosedFormMethod):
    """Settings of sparse subspace clustering; see `dsclust.SparseSubspaceClustering`. ValueError for one out of
    range.
    """

    name: ClassVar[str] = "ssc"
    title: ClassVar[str] = "SSC"
    summary: ClassVar[str] = "closed form: each sample by its nearest others; ridge, elastic net or OMP; for large N"
    solver: Solver = "ridge"
    support: int = 50
    regularization: float = 0.1
    l1: float = 0.005
    n_nonzero: int = 5

    def __post_init__(self) -> None:
        one_of(self.title, "solver", self.solver, words(Solver))
        for name in ("support", "n_nonzero"):
            integer(self.title, name, getattr(self, name), least=1)
        for name in ("regularization", "l1"):
            number(self.title, name, getattr(self, name), above=0)

    def adapt_preset(self, preset: Preset) -> Preset:
        return replace(preset, graph=replace(preset.graph, affinity="sparse"))

    def row_entries(self, n_samples: int) -> int:
        return min(self.support, n_samples - 1)

    def model(self, problem: Problem, pretrained: Pretrained | None, generator: torch.Generator) -> SSCModel:
        return SSCModel(math.prod(problem.sample_shape), self)

    def encoder(self, preset: Preset, sample_shape: tuple[int, ...]) -> CenteredRows:
        return CenteredRows(math.prod(sample_shape))

    def restore_classifier(self, tensors: Mapping[str, Tensor], preset: Preset, n_clusters: int) -> SupportVote:
        return SupportVote(tensors["rows"], tensors["labels"], n_clusters, self)

    def solve(self, rows: Tensor, support: Tensor, queries: Tensor | None = None) -> Tensor:
        """Return coefficients (B, s) of queries (B, f), or of all rows (N, f), on their supports (B, s) of rows."""
        if self.solver == "ridge":
            return ridge_on_support(rows, support, self.regularization, Q=queries)
        if self.solver == "elastic_net":
            return elastic_net_on_support(rows, support, self.l1, self.regularization, Q=queries)
        return omp_on_support(rows, support, self.n_nonzero, Q=queries)


class SSCModel(CenteredForm):
    """C (N, N) as CSR, `support` entries a row or fewer."""

    def __init__(self, features: int, settings: SSCMethod) -> None:
        super().__init__(features)
        self.settings = settings

    def coefficients(self, latent: Tensor) -> Tensor:
        """Costs 2 N² f for the supports and N s² f for the Gram matrices of s rows each; memory O(N (f + s))."""
        n = latent.shape[0]
        support = topk_coefficients((latent, latent), self.settings.row_entries(n))[1].sort(dim=1).values
        values = self.settings.solve(latent, support)
        kept = values != 0
        ends = kept.sum(dim=1).cumsum(0)
        crow = torch.cat([ends.new_zeros(1), ends])
        return torch.sparse_csr_tensor(crow, support[kept], values[kept], (n, n), check_invariants=False)

    def classifier(self, latent: Tensor, labels: Tensor, n_clusters: int, generator: torch.Generator) -> SupportVote:
        return SupportVote(latent, labels, n_clusters, self.settings)


class SupportVote(nn.Module):
    """Rows (n, f) to votes (n, K): each cluster's share of |c| in a row's coefficients on its nearest fitted rows.

    A fitted sample is its own strongest voter. Holds the fitted rows, N f numbers; a row costs 2 N f + s² f.
    """

    def __init__(self, rows: Tensor, labels: Tensor, n_clusters: int, settings: SSCMethod) -> None:
        super().__init__()
        self.rows: Tensor
        self.labels: Tensor
        self.register_buffer("rows", rows)
        self.register_buffer("labels", labels)
        self.n_clusters = n_clusters
        self.settings = settings

    def forward(self, latent: Tensor) -> Tensor:
        most = min(self.settings.support, self.rows.shape[0])
        support = topk_coefficients((latent, self.rows), most, zero_diagonal=False)[1]
        share = self.settings.solve(self.rows, support, latent).abs()
        return latent.new_zeros(len(latent), self.n_clusters).scatter_add_(1, self.labels[support], share)
