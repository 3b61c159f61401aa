"""What the trainer asks of a method, and what it tells one.

A method is a `Method`, plain settings that a checkpoint can hold, and the `Model` it makes: the networks and the loss
of one batch. Order of samples, epochs, checkpoints and history are the trainer's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dsc.networks import Autoencoder
from dsc.presets import LossWeights, Preset


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch, in sums over it, so that an epoch of batches adds up to the full loss.

    objective: what to differentiate. A term whose gradient an optimiser adds by itself (weight decay) is not in it.
    terms: weighted terms as scalar tensors without gradient; they add up to the loss.
    measures: what else the history reports, as a mean over samples.
    """

    objective: Tensor
    terms: Mapping[str, Tensor]
    measures: Mapping[str, Tensor]


class Model(nn.Module, ABC):
    """Networks in training. `encoder` maps a batch of samples to latent rows (B, h)."""

    encoder: nn.Module

    def start(self, latent: Tensor) -> None:
        """Called once before the first step with the latent rows of all samples, (N, h), in order."""

    @abstractmethod
    def batch_loss(self, x: Tensor, rows: Tensor | None = None) -> BatchLoss:
        """The loss of samples `x` (B, ...) with indices `rows` (B,), distinct; None: all N in order."""

    @abstractmethod
    def optimizers(self, lr: float, n_batches: int) -> list[torch.optim.Optimizer]:
        """What moves the parameters: `lr` is the rate at full batch, an epoch has `n_batches` steps."""

    @abstractmethod
    def coefficients(self, latent: Tensor) -> Tensor:
        """C (N, N), without gradient, given the latent rows of all samples; row i is that of sample i."""

    def classifier(self, latent: Tensor, labels: Tensor, seed: torch.Generator) -> nn.Module | None:
        """A module from latent rows (n, h) to scores (n, K) that has learnt the samples' clusters `labels` (N,) int64,
        or None where the method is transductive."""
        return None


@dataclass(frozen=True)
class Problem:
    """What a method may look at to set itself up: sizes, never labels."""

    preset: Preset
    n_samples: int
    n_clusters: int
    rows_per_batch: int
    shuffled: bool

    @property
    def n_batches(self) -> int:
        return -(-self.n_samples // self.rows_per_batch)


@dataclass(frozen=True)
class Method(ABC):
    """Settings of one method; immutable and made of plain values."""

    name: ClassVar[str]

    def check(self, shuffled: bool) -> None:  # noqa: B027 (most methods take any order)
        """Raises ValueError where the order of the samples does not suit the method."""

    @abstractmethod
    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        """Numbers in the arrays of training that grow as N² does."""

    @abstractmethod
    def epochs(self, problem: Problem) -> int:
        """Passes over the data where neither the user nor the preset says."""

    @abstractmethod
    def scale_free_weights(self, problem: Problem, sample_energy: float, latent_energy: float) -> LossWeights:
        """Weights where the preset has none, from the means of ||x||² and ||z||² over the samples."""

    @abstractmethod
    def model(self, problem: Problem, autoencoder: Autoencoder, weights: LossWeights, seed: torch.Generator) -> Model:
        """The model around a pre-trained autoencoder, whose modules it takes over."""
