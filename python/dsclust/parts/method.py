"""What the trainer asks of a method, and what it tells one.

A method is a `Method`, plain settings that a checkpoint can hold, and the `Model` it makes: where there is something to
train, a `TrainedModel`, the networks and the loss of one batch. Order of samples, epochs, checkpoints and history are
the trainer's. An `AutoencoderMethod` gets a pre-trained autoencoder to start from; a `ClosedFormMethod` takes no step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dsclust.parts.networks import Autoencoder, build_autoencoder
from dsclust.parts.vote import CoefficientVote
from dsclust.presets import AssignLabels, LossWeights, Preset


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch, in sums over it, so that an epoch of batches adds up to the full loss.

    objective: what to differentiate. A term whose gradient an optimizer adds by itself (weight decay) is not in it.
    terms: weighted terms as scalar tensors without gradient; they add up to the loss.
    measures: what else the history reports, as a mean over samples.
    """

    objective: Tensor
    terms: Mapping[str, Tensor]
    measures: Mapping[str, Tensor]


class Model(nn.Module, ABC):
    """What a method makes of the samples. `encoder` maps a batch of them to latent rows (B, h)."""

    encoder: nn.Module

    def latent(self, x: Tensor, batch_size: int) -> Tensor:
        """Latent rows (N, h) of all samples `x` in order, of so many at a time; a model may remember parts of them.

        Called without gradient, before `TrainedModel.start` and after the last epoch.
        """
        return torch.cat([self.encoder(part) for part in x.split(batch_size)])

    @abstractmethod
    def coefficients(self, latent: Tensor) -> Tensor:
        """C (N, N), without gradient, given the latent rows of all samples; row i is that of sample i.

        Dense, or `torch.sparse_csr` where `Method.row_entries` says so.
        """

    def classifier(self, latent: Tensor, labels: Tensor, n_clusters: int, seed: torch.Generator) -> nn.Module:
        """A module from latent rows (n, h) to scores (n, K) that has learned the samples' clusters `labels` (N,) int64.

        By default, for methods whose C has a row for fitted samples alone, the vote of a new sample's coefficients on
        the fitted ones.
        """
        return CoefficientVote.fitted(latent, labels, n_clusters)


class TrainedModel(Model):
    """Networks in training."""

    # The largest norm of the gradient of all parameters together; a longer one is scaled down to it before the step.
    max_gradient_norm: float | None = None
    # Takes how much of the work before the first step is done, and of how much; set where that is worth showing.
    report: Callable[[int, int], None] | None = None
    # A folder for what takes long before the first step; set where there is one.
    cache: Path | None = None

    def start(self, x: Tensor, latent: Tensor) -> None:
        """Called once before the first step, with all samples, (N, ...), and their latent rows, (N, h), in order."""

    def begin_epoch(self, x: Tensor, epoch: int, generator: torch.Generator) -> None:
        """Called before each epoch, counted from 0, with all samples in order and the epoch's own random numbers."""

    def epoch_measures(self) -> Mapping[str, float]:
        """What the history reports of the state after an epoch, beside what batches measure; finite numbers."""
        return {}

    def lr_factor(self, epoch: int, epochs: int) -> float:
        """What the optimizers' rates are multiplied by in an epoch, counted from 0, of so many."""
        return 1.0

    @abstractmethod
    def batch_loss(self, x: Tensor, rows: Tensor | None = None) -> BatchLoss:
        """The loss of samples `x` (B, ...) with indices `rows` (B,), distinct; None: all N in order."""

    @abstractmethod
    def optimizers(self, lr: float, n_batches: int) -> list[torch.optim.Optimizer]:
        """What moves the parameters: `lr` is the rate at full batch, an epoch has `n_batches` steps."""

    def finish(self) -> None:
        """Called once after the last step, before the results are asked for: what training alone needed may go."""


@dataclass(frozen=True)
class Problem:
    """What a method may look at to set itself up: sizes, never labels.

    rows_per_batch: samples that go through the networks at a time; full_batch: whether a step takes all of them anyway.
    """

    preset: Preset
    sample_shape: tuple[int, ...]
    n_samples: int
    n_clusters: int
    rows_per_batch: int
    shuffled: bool
    full_batch: bool = False

    @property
    def n_batches(self) -> int:
        """Steps an epoch."""
        return 1 if self.full_batch else -(-self.n_samples // self.rows_per_batch)


@dataclass(frozen=True)
class Method(ABC):
    """Settings of one method; immutable and made of plain values.

    name, title: what the command line and what people call it. summary: in a line. batch_size: samples a step where
    nobody says, None for all. assign_labels: last step of spectral clustering where nobody says. labels_by_classifier:
    labels of the fitted samples are the classifier's, not those of spectral clustering.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    batch_size: ClassVar[int | None] = None
    assign_labels: ClassVar[AssignLabels] = "discretize"
    labels_by_classifier: ClassVar[bool] = False

    def settings(self) -> dict[str, Any]:
        """Name and settings as plain values."""
        return {"name": self.name, **asdict(self)}

    @property
    def full_batch(self) -> bool:
        """Whether a step takes all samples, whatever the batch size, which then says how many go through the networks
        at a time.
        """
        return False

    @property
    def shuffles(self) -> bool:
        """Whether samples come in another order in every epoch."""
        return True

    def check(self, shuffled: bool) -> None:  # noqa: B027 (most methods take any order)
        """Raises ValueError where the order of the samples does not suit the method."""

    def adapted(self, preset: Preset) -> Preset:
        """The preset with what the method needs otherwise: the scale of pixels, or the way to labels."""
        return preset

    @abstractmethod
    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        """Numbers in the arrays of training that grow as N² does."""

    def row_entries(self, n_samples: int) -> int | None:
        """The most entries in a row of C where the model gives it sparse; None where it is dense."""
        return None

    @abstractmethod
    def epochs(self, problem: Problem) -> int:
        """Passes over the data where neither the user nor the preset says."""

    @abstractmethod
    def model(self, problem: Problem, pretrained: Pretrained | None, seed: torch.Generator) -> Model:
        """The model, on the CPU in float32 or as `pretrained`, whose modules it takes over."""

    @abstractmethod
    def encoder(self, preset: Preset, sample_shape: tuple[int, ...]) -> nn.Module:
        """An encoder like that of the model, for stored weights to be loaded into."""

    def restored_classifier(self, tensors: Mapping[str, Tensor], preset: Preset, n_clusters: int) -> nn.Module:
        """What `Model.classifier` made, from its state_dict."""
        return CoefficientVote.restored(tensors, n_clusters)


class ClosedFormMethod(Method):
    """A method whose C follows from the samples by a formula: its model is a plain `Model`."""

    assign_labels: ClassVar[AssignLabels] = "kmeans"

    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        return 0

    def epochs(self, problem: Problem) -> int:
        return 0


@dataclass(frozen=True)
class Pretrained:
    """An autoencoder that has learned the samples, and the weights of the loss."""

    autoencoder: Autoencoder
    weights: LossWeights


class AutoencoderMethod(Method):
    """A method that starts from a pre-trained autoencoder and weights its loss as `LossWeights` says."""

    @abstractmethod
    def scale_free_weights(self, problem: Problem, sample_energy: float, latent_energy: float) -> LossWeights:
        """Weights where the preset has none, from the means of ||x||² and ||z||² over the samples."""

    def encoder(self, preset: Preset, sample_shape: tuple[int, ...]) -> nn.Module:
        return build_autoencoder(preset, sample_shape, torch.Generator()).encoder
