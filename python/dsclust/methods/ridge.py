"""Ridge self-expression: C by one solve, in which every sample may use every other (least-squares regression).

The C of ``min ‖Z − CZ‖² + λ‖C‖²``, ``c_ii = 0`` (Lu et al., ECCV 2012), for the samples as centered unit rows: the
formula and its cost are in `dsclust.ridge`. λ = N / K, for which a C that averages over each cluster costs as much as
it explains (see `dsclust.presets.LossWeights.scale_free`), whatever the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dsclust.checks import integer, number
from dsclust.parts.closed_form import CenteredForm, CenteredRows
from dsclust.parts.method import ClosedFormMethod, Pretrained, Problem, register_method
from dsclust.presets import Preset
from dsclust.ridge import sparse_ridge


@register_method
@dataclass(frozen=True)
class RidgeMethod(ClosedFormMethod):
    """Settings of ridge self-expression; see `dsclust.RidgeSubspaceClustering`. ValueError for one out of range.

    regularization: λ in units of N / K. strongest: entries of each row of ``C + Cᵀ`` that are kept, see
    `dsclust.ridge.sparse_ridge`; the graph has 5.
    """

    name: ClassVar[str] = "ridge"
    title: ClassVar[str] = "Ridge"
    summary: ClassVar[str] = "closed form: each sample by all others, least squares with a ridge; O(N) memory"
    regularization: float = 1.0
    strongest: int = 20

    def __post_init__(self) -> None:
        number(self.title, "regularization", self.regularization, above=0)
        integer(self.title, "strongest", self.strongest, least=1)

    def adapt_preset(self, preset: Preset) -> Preset:
        return replace(preset, graph=replace(preset.graph, affinity="sparse"))

    def row_entries(self, n_samples: int) -> int:
        return min(2 * self.strongest, n_samples - 1)  # in the mean

    def model(self, problem: Problem, pretrained: Pretrained | None, generator: torch.Generator) -> RidgeModel:
        features = math.prod(problem.sample_shape)
        lam = self.regularization * problem.n_samples / problem.n_clusters
        return RidgeModel(features, lam, min(self.strongest, problem.n_samples - 1))

    def encoder(self, preset: Preset, sample_shape: tuple[int, ...]) -> CenteredRows:
        return CenteredRows(math.prod(sample_shape))


class RidgeModel(CenteredForm):
    """C (N, N) as CSR: of the whole minimizer the entries that `dsclust.ridge.sparse_ridge` keeps."""

    def __init__(self, features: int, lam: float, strongest: int) -> None:
        super().__init__(features)
        self.lam = lam
        self.strongest = strongest

    def coefficients(self, latent: Tensor) -> Tensor:
        return sparse_ridge(latent, self.lam, self.strongest)
