"""The penalty of C: its value, its weight, and the part it has in the step of C, which adds its gradient by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dsc_ext import FusedAdam
from dsclust.parts.registry import Parts

PENALTIES: Parts[Penalty] = Parts("penalty")


@dataclass(frozen=True)
class Penalty(ABC):
    """Price the coefficients.

    zero_diagonal: whether each sample would express itself at the lowest price, so that the diagonal has to be zero.
    Cost: none in a step, whose optimizer has the gradient; `value` reads C once.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    zero_diagonal: ClassVar[bool]

    @abstractmethod
    def value(self, C: Tensor) -> Tensor:
        """Return the penalty of C, unweighted, as a scalar."""

    @abstractmethod
    def scale_free(self, n_samples: int, n_clusters: int) -> float:
        """Return the weight at which the C that averages over each of K equal clusters costs N."""

    @abstractmethod
    def step(self, weight: float) -> FusedAdam:
        """Return the step of C that has the gradient of ``weight * value(C)`` in it."""


@PENALTIES.register
@dataclass(frozen=True)
class SquaredL2(Penalty):
    """Price ||C||², as published settings have it."""

    name: ClassVar[str] = "l2"
    summary: ClassVar[str] = "||C||²"
    zero_diagonal: ClassVar[bool] = False

    def value(self, C: Tensor) -> Tensor:
        return torch.linalg.vector_norm(C) ** 2

    def scale_free(self, n_samples: int, n_clusters: int) -> float:
        return n_samples / n_clusters  # ||C||² = K

    def step(self, weight: float) -> FusedAdam:
        return FusedAdam(weight_decay=2.0 * weight)


@PENALTIES.register
@dataclass(frozen=True)
class L1(Penalty):
    """Price ||C||₁, which makes rows of C sparse."""

    name: ClassVar[str] = "l1"
    summary: ClassVar[str] = "||C||₁, with a zero diagonal"
    zero_diagonal: ClassVar[bool] = True

    def value(self, C: Tensor) -> Tensor:
        return torch.linalg.vector_norm(C, ord=1)

    def scale_free(self, n_samples: int, n_clusters: int) -> float:
        return 1.0  # ||C||₁ = N

    def step(self, weight: float) -> FusedAdam:
        return FusedAdam(l1=weight)
