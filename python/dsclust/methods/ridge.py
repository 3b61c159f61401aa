"""Ridge self-expression: C by one solve, in which every sample may use every other (least-squares regression).

The C of ``min ‖Z − CZ‖² + λ‖C‖²``, ``c_ii = 0`` (Lu et al., ECCV 2012), for the samples as centered unit rows: the
formula and its cost are in `dsclust.ridge`. λ = N / K, for which a C that averages over each cluster costs as much as
it explains (see `dsclust.presets.LossWeights.scale_free`), whatever the data.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dsclust.parts.closed_form import CenteredRows, ClosedForm
from dsclust.parts.method import ClosedFormMethod, Pretrained, Problem
from dsclust.presets import Preset
from dsclust.ridge import strongest_ridge


@dataclass(frozen=True)
class RidgeMethod(ClosedFormMethod):
    """Settings of ridge self-expression; see `dsclust.RidgeSubspaceClustering`. ValueError for one out of range.

    regularization: λ in units of N / K. strongest: entries of each row of ``C + Cᵀ`` that are kept, see
    `dsclust.ridge.strongest_ridge`; the graph has 5.
    """

    name: ClassVar[str] = "ridge"
    title: ClassVar[str] = "Ridge"
    summary: ClassVar[str] = "closed form: each sample by all others, least squares with a ridge; O(N) memory"
    regularization: float = 1.0
    strongest: int = 20

    def __post_init__(self) -> None:
        if isinstance(self.regularization, bool) or not isinstance(self.regularization, numbers.Real):
            raise TypeError(f"Ridge: regularization: expected a number, got {self.regularization!r}")
        if not 0 < self.regularization < math.inf:
            raise ValueError(f"Ridge: regularization: expected a finite number > 0, got {self.regularization!r}")
        if isinstance(self.strongest, bool) or not isinstance(self.strongest, numbers.Integral):
            raise TypeError(f"Ridge: strongest: expected an integer, got {self.strongest!r}")
        if self.strongest < 1:
            raise ValueError(f"Ridge: strongest: expected at least 1, got {self.strongest}")

    def adapted(self, preset: Preset) -> Preset:
        return replace(preset, affinity="sparse")

    def row_entries(self, n_samples: int) -> int:
        return min(2 * self.strongest, n_samples - 1)  # in the mean

    def model(self, problem: Problem, pretrained: Pretrained | None, seed: torch.Generator) -> Ridge:
        features = math.prod(problem.sample_shape)
        lam = self.regularization * problem.n_samples / problem.n_clusters
        return Ridge(features, lam, min(self.strongest, problem.n_samples - 1))

    def encoder(self, preset: Preset, sample_shape: tuple[int, ...]) -> CenteredRows:
        return CenteredRows(math.prod(sample_shape))


class Ridge(ClosedForm):
    """C (N, N) as CSR: of the whole minimizer the entries that `dsclust.ridge.strongest_ridge` keeps."""

    def __init__(self, features: int, lam: float, strongest: int) -> None:
        super().__init__(features)
        self.lam = lam
        self.strongest = strongest

    def coefficients(self, latent: Tensor) -> Tensor:
        return strongest_ridge(latent, self.lam, self.strongest)
