"""The contract between a method and whatever runs it.

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

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dsclust.names import AssignLabels, method_names
from dsclust.parts.networks import Autoencoder, build_autoencoder
from dsclust.parts.registry import Files
from dsclust.parts.vote import CoefficientVote
from dsclust.presets import LossWeights, Preset
from dsclust.samples import Samples
from dsclust.scale import prepare


@dataclass(frozen=True)
class BatchLoss:
    """Hold the loss of one batch, in sums over it, so that an epoch of batches adds up to the full loss.

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

    @abstractmethod
    def coefficients(self, latent: Tensor) -> Tensor:
        """Return C (N, N), without gradient, given the latent rows of all samples; row i is that of sample i.

        Dense, or `torch.sparse_csr` where `Method.row_entries` says so.
        """

    def classifier(self, latent: Tensor, labels: Tensor, n_clusters: int, generator: torch.Generator) -> nn.Module:
        """Return a module from latent rows (n, h) to scores (n, K), taught the samples' clusters `labels` (N,) int64.

        By default, for methods whose C has a row for fitted samples alone, the vote of a new sample's coefficients on
        the fitted ones.
        """
        return CoefficientVote.fit(latent, labels, n_clusters)


class ClosedFormModel(Model):
    """A model that learns at once what it has to know."""

    @abstractmethod
    def start(self, samples: Samples, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Learn from all samples, and return their latent rows (N, h) on the device in that type."""


@dataclass(frozen=True)
class Start:
    """Tell a model, before the first step, how it may work.

    batch_size: samples that go through the networks at a time. report: takes how much of the work is done, and of how
    much. cache: a folder for what takes long, or None.
    """

    batch_size: int
    report: Callable[[int, int], None] = lambda done, of: None
    cache: Path | None = None


class TrainedModel(Model):
    """Networks in training. `start` and `batch_loss` learn; whatever else is asked only looks."""

    # The largest norm of the gradient of all parameters together; a longer one is scaled down to it before the step.
    max_gradient_norm: float | None = None

    def start(self, x: Tensor, how: Start) -> None:
        """Learn from all samples x (N, ...) what has to be known before the first step. Called without gradient."""

    def latent(self, x: Tensor, batch_size: int) -> Tensor:
        """Return the latent rows (N, h) of all samples `x` in order, of so many at a time; called without gradient."""
        return torch.cat([self.encoder(part) for part in x.split(batch_size)])

    def begin_epoch(self, x: Tensor, epoch: int, generator: torch.Generator) -> None:
        """Prepare an epoch, counted from 0, with all samples in order and the epoch's own random numbers."""

    def epoch_terms(self) -> Mapping[str, float]:
        """Return weighted terms of an epoch's loss that no batch has: those that were known when it began."""
        return {}

    def epoch_measures(self) -> Mapping[str, float]:
        """Return what the history reports of the state after an epoch, beside what batches measure; finite numbers."""
        return {}

    def lr_factor(self, epoch: int, epochs: int) -> float:
        """Return what the optimizers' rates are multiplied by in an epoch, counted from 0, of so many."""
        return 1.0

    @abstractmethod
    def batch_loss(self, x: Tensor, rows: Tensor | None = None) -> BatchLoss:
        """Return the loss of samples `x` (B, ...) with indices `rows` (B,), distinct; None: all N in order."""

    @abstractmethod
    def optimizers(self, lr: float, n_batches: int) -> list[torch.optim.Optimizer]:
        """Return what moves the parameters: `lr` is the rate at full batch, an epoch has `n_batches` steps."""

    def finish(self) -> None:
        """Let go of what training alone needed; called once after the last step, before the results are asked for."""


@dataclass(frozen=True)
class Problem:
    """Tell a method what it may look at to set itself up: sizes, never labels.

    rows_per_batch: samples that go through the networks at a time; full_batch: whether a step takes all of them anyway.
    """

    preset: Preset
    sample_shape: tuple[int, ...]
    n_samples: int
    n_clusters: int
    rows_per_batch: int
    full_batch: bool = False

    @property
    def n_batches(self) -> int:
        """Steps an epoch."""
        return 1 if self.full_batch else -(-self.n_samples // self.rows_per_batch)


@dataclass(frozen=True)
class Method(ABC):
    """Settings of one method; immutable and made of plain values, all with a default.

    name, title: what the command line and what people call it. summary: in a line. batch_size: samples a step where
    nobody says, None for all. assign_labels: last step of spectral clustering where nobody says. labels_by_classifier:
    labels of the fitted samples are the classifier's, not those of spectral clustering. training_options: the arguments
    of :func:`dsclust.pipeline.cluster` about training that mean something to it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    batch_size: ClassVar[int | None] = None
    assign_labels: ClassVar[AssignLabels] = "discretize"
    labels_by_classifier: ClassVar[bool] = False
    training_options: ClassVar[tuple[str, ...]] = ("preset", "batch_size", "epochs", "lr")

    def settings(self) -> dict[str, Any]:
        """Return name and settings as plain values."""
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

    def adapt_preset(self, preset: Preset) -> Preset:
        """Return the preset with what the method needs otherwise: the scale of pixels, or the way to labels."""
        return preset

    def prepare(
        self,
        X: npt.NDArray[np.float32],
        pixel_range: tuple[float, float] | None,
        preset: Preset,
        magnitude: float | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return samples as the encoder takes them; see :func:`dsclust.scale.prepare`."""
        return prepare(X, pixel_range, preset, magnitude)

    @abstractmethod
    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        """Return how many numbers the arrays of training hold that grow as N² does."""

    def row_entries(self, n_samples: int) -> int | None:
        """Return the most entries in a row of C where the model gives it sparse; None where it is dense."""
        return None

    @abstractmethod
    def model(self, problem: Problem, pretrained: Pretrained | None, generator: torch.Generator) -> Model:
        """Return the model, on the CPU in float32 or as `pretrained`, whose modules it takes over."""

    @abstractmethod
    def encoder(self, preset: Preset, sample_shape: tuple[int, ...]) -> nn.Module:
        """Return an encoder like that of the model, for stored weights to be loaded into."""

    def restore_classifier(self, tensors: Mapping[str, Tensor], preset: Preset, n_clusters: int) -> nn.Module:
        """Return what `Model.classifier` made, from its state_dict."""
        return CoefficientVote.restore(tensors, n_clusters)


class ClosedFormMethod(Method):
    """A method whose C follows from the samples by a formula: it takes no step, and samples of any scale."""

    assign_labels: ClassVar[AssignLabels] = "kmeans"
    training_options: ClassVar[tuple[str, ...]] = ()

    def prepare(
        self,
        X: npt.NDArray[np.float32],
        pixel_range: tuple[float, float] | None,
        preset: Preset,
        magnitude: float | None = None,
    ) -> npt.NDArray[np.float32]:
        return X

    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        return 0

    @abstractmethod
    def model(self, problem: Problem, pretrained: Pretrained | None, generator: torch.Generator) -> ClosedFormModel: ...


class TrainedMethod(Method):
    """A method whose model is trained."""

    @abstractmethod
    def epochs(self, problem: Problem) -> int:
        """Return the passes over the data where neither the user nor the preset says."""

    @abstractmethod
    def model(self, problem: Problem, pretrained: Pretrained | None, generator: torch.Generator) -> TrainedModel: ...


@dataclass(frozen=True)
class Pretrained:
    """An autoencoder that has learned the samples, and the weights of the loss."""

    autoencoder: Autoencoder
    weights: LossWeights


class AutoencoderMethod(TrainedMethod):
    """A method that starts from a pre-trained autoencoder and weights its loss as `LossWeights` says."""

    training_options: ClassVar[tuple[str, ...]] = (*Method.training_options, "pretrain_steps", "autoencoder")

    @abstractmethod
    def scale_free_weights(self, problem: Problem, sample_energy: float, latent_energy: float) -> LossWeights:
        """Return weights where the preset has none, from the means of ||x||² and ||z||² over the samples."""

    def encoder(self, preset: Preset, sample_shape: tuple[int, ...]) -> nn.Module:
        return build_autoencoder(preset, sample_shape, torch.Generator()).encoder


METHODS: Files[Method] = Files("dsclust.methods", method_names)
register_method = METHODS.register
