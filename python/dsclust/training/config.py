"""What a training run is told, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from dsclust.checks import integer, one_of
from dsclust.methods.bdsc import BDSCMethod
from dsclust.parts.method import AutoencoderMethod, Method, Model, Problem, TrainedMethod
from dsclust.presets import LossWeights, Preset

History = list[dict[str, float]]


@dataclass(frozen=True)
class PretrainConfig:
    """How the autoencoder is trained before C exists: the same rule for every data set.

    Adam at `lr` on mini-batches of `batch_size`, in units where the samples' range is 1. First
    `draws` initializations are trained for `trial_steps` steps each and the one with the lowest
    error goes on: a small ReLU network may start with dead channels, and the reconstruction error
    shows it without any label. It then runs until its error has stopped falling: after `min_steps`
    steps at least, when the lowest error of the second half of all epochs is not more than
    `tolerance` (relative, in root mean square) below that of the first half; or when it is
    below `floor`, one step of 8-bit gray; or after `max_steps` steps.
    """

    lr: float = 3e-3
    batch_size: int = 100
    draws: int = 4
    trial_steps: int = 80
    min_steps: int = 600
    max_steps: int = 6000
    tolerance: float = 0.03
    floor: float = 1.0 / 255.0


@dataclass(frozen=True)
class TrainConfig:
    """One run. Everything in it is a plain value and is stored in checkpoints.

    method: whose model and loss, see `dsclust.methods`. batch_size: None for all samples in one batch;
    an epoch's batches differ by one sample at most; for a method whose steps take all samples, how
    many go through its networks at a time. epochs: None for the preset's, or the method's.
    device: "cpu" or "cuda". dtype: "float32" or "float64".
    """

    preset: Preset
    n_clusters: int
    method: Method = field(default_factory=BDSCMethod)
    batch_size: int | None = None
    epochs: int | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    pretraining: PretrainConfig = field(default_factory=PretrainConfig)

    def problem(self, n_samples: int, sample_shape: tuple[int, ...]) -> Problem:
        """Return what the method is told of a data set of N samples."""
        rows = n_samples if self.batch_size is None else min(self.batch_size, n_samples)
        return Problem(self.preset, sample_shape, n_samples, self.n_clusters, rows, self.method.full_batch)

    def n_epochs(self, problem: Problem) -> int:
        """Return the passes over the data: those asked for, the preset's or the method's; none of a closed form."""
        if not isinstance(self.method, TrainedMethod):
            return 0
        published = self.preset.epochs if isinstance(self.method, AutoencoderMethod) else None
        return self.epochs or published or self.method.epochs(problem)

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            integer("TrainConfig", name, getattr(self, name), least=1, optional=True)
        integer("TrainConfig", "n_clusters", self.n_clusters, least=1)
        one_of("TrainConfig", "dtype", self.dtype, ("float32", "float64"))


@dataclass(frozen=True)
class TrainResult:
    """The coefficient matrix and how it came about.

    coefficients: (N, N) on the CPU, dense or CSR; row i holds the coefficients of sample i. latent: (N, h)
    on the CPU, what the encoder makes of the samples in the end. pretraining and history: one dict an
    epoch, as `Progress.metrics` with "epoch". weights: those of the loss, None where the method has others.
    """

    coefficients: Tensor
    latent: Tensor
    history: History
    pretraining: History
    weights: LossWeights | None
    model: Model
