"""Training: pre-trains the autoencoder, then runs the epochs of a method, with checkpoints.

Owns loops, order of samples, seeding, the stopping rule of pre-training, history and checkpoint
files. Has no numerics of its own: losses and optimizers come from `dsclust.methods`. Every random draw
is a function of (seed, purpose, epoch), so a run that was stopped and resumed is equal, bit by bit,
to one that was not, on the same machine and thread count.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dsclust.data import Dataset
from dsclust.features.cache import usable
from dsclust.files import digest, read_tensors, write_tensors
from dsclust.methods import (
    AutoencoderMethod,
    BDSCMethod,
    ClosedFormMethod,
    Method,
    Model,
    Pretrained,
    Problem,
    TrainedModel,
)
from dsclust.parts.networks import Autoencoder, build_autoencoder
from dsclust.presets import LossWeights, Preset, prepare

CHECKPOINT_FORMAT = 1
# Values in a batch up to which a step runs on one thread: 128 images of 32 x 32.
SMALL_BATCH = 2**17
# What a random draw is for; part of its seed.
_INIT, _PRETRAIN, _TRAIN, _MODEL, CLASSIFIER, _EPOCH = range(6)


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
    shuffle: bool = True
    epochs: int | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    pretraining: PretrainConfig = field(default_factory=PretrainConfig)

    def problem(self, n_samples: int, sample_shape: tuple[int, ...]) -> Problem:
        """What the method is told of a data set of N samples."""
        rows = n_samples if self.batch_size is None else min(self.batch_size, n_samples)
        return Problem(
            self.preset, sample_shape, n_samples, self.n_clusters, rows, self.shuffle, self.method.full_batch
        )

    def n_epochs(self, problem: Problem) -> int:
        published = self.preset.epochs if isinstance(self.method, AutoencoderMethod) else None
        return self.epochs or published or self.method.epochs(problem)

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"TrainConfig: {name}: expected at least 1 or None, got {value}")
        if self.n_clusters < 1:
            raise ValueError(f"TrainConfig: n_clusters: expected at least 1, got {self.n_clusters}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"TrainConfig: dtype: expected one of float32, float64, got {self.dtype!r}")
        self.method.check(self.shuffle)


@dataclass(frozen=True)
class Progress:
    """What a callback is told after each epoch.

    phase: "features", "pretrain", "views" or "train"; epochs: the most there can be (pre-training may stop before);
    metrics: as in the history. "features", and "views" that a frozen network of the method makes features of: none, and
    images that are done count for epochs. "pretrain": rmse, in units of the samples' range. "train": loss, its weighted
    terms and the method's measures, such as BDSC's drift.
    """

    phase: Literal["features", "pretrain", "views", "train"]
    epoch: int
    epochs: int
    metrics: Mapping[str, float]


Callback = Callable[[Progress], None]
History = list[dict[str, float]]


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


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C, after the state was saved; the message says where and how to resume."""


class DivergedError(RuntimeError):
    """The loss is no longer finite."""


def pretrain(
    data: Dataset,
    config: TrainConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callback: Callback | None = None,
) -> tuple[Autoencoder, History]:
    """Trains the preset's autoencoder on the data alone; see `PretrainConfig` for the rule.

    Returns it in the preset's units, with its history. `checkpoint`, `resume`, `callback` and what
    is raised: as for :func:`fit`.
    """
    return _Run(data, config, None, checkpoint, callback).pretrained(resume)


def fit(
    data: Dataset,
    config: TrainConfig,
    *,
    autoencoder: Autoencoder | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callback: Callback | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> TrainResult:
    """Trains a method and returns its coefficient matrix, that of the last epoch: nothing is selected.

    autoencoder
        A pre-trained one, trained further in place; by default it is pre-trained first.
    checkpoint
        A file to keep the state in (about 12 N² bytes in float32), replaced atomically about once a
        minute, at the end and on Ctrl-C. Ctrl-C waits for the end of the epoch; a second one does
        not, and leaves the last file that was written.
    resume
        Go on from `checkpoint` if it is there; the run then ends as it would have without the stop.
    callback
        Called after every epoch; what it raises ends the run, `KeyboardInterrupt` like Ctrl-C.
    cache
        A folder in which a method may keep what takes it long before the first step, as CLBDSC the features of views.

    Raises ValueError for data that do not fit the preset and for a checkpoint of another run (it
    names the settings that differ), DivergedError, and TrainingInterrupted, a KeyboardInterrupt.
    Deterministic on a CPU for a given number of threads. True labels are never read.
    """
    return _Run(data, config, autoencoder, checkpoint, callback, cache).trained(resume)


def generator_for(seed: int, *purpose: int) -> torch.Generator:
    """Random numbers for one purpose of a run, and for an epoch of it."""
    # SeedSequence mixes its words: neighboring seeds and epochs give unrelated streams.
    word = np.random.SeedSequence([seed, *purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word) & (2**63 - 1))


def _batches(n: int, count: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
    """All n row indices in `count` batches whose sizes differ by one at most: no sample is left out, no batch tiny."""
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    return torch.tensor_split(order, count)


def has_plateaued(errors: list[float], tolerance: float) -> bool:
    """Whether the lowest error of the second half is at most `tolerance` below the first half's.

    The window grows with the run: error curves fall roughly as a power of time, so that a window
    of fixed length would sooner or later call any of them flat.
    """
    recent = max(len(errors) // 2, 1)
    before = errors[:-recent]
    return bool(before) and min(errors[-recent:]) > (1.0 - tolerance) * min(before)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One CPU thread for what is inside, then as many as before.

    A step on a small batch is a chain of operations too short to share: a second thread gains little on an idle machine
    and, where cores are busy, makes every one of them wait for it (digits: 4 s became 22 s).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _DeferredInterrupt:
    """Turns the first Ctrl-C into a flag that is looked at between epochs.

    Outside the main thread, where signals cannot be caught, it leaves them alone.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> _DeferredInterrupt:
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *exc: object) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._previous)


class _Checkpoint:
    """One safetensors file: tensors, and all the rest as JSON in its header."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity = identity

    def write(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = {"format": CHECKPOINT_FORMAT, "identity": self.identity, "state": state}
        write_tensors(self.path, tensors, header)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state, or None where there is no file yet."""
        if not self.path.exists():
            return None
        tensors, header = read_tensors(self.path, CHECKPOINT_FORMAT, "checkpoint")
        differing = _differences(header["identity"], json.loads(json.dumps(self.identity)))
        if differing:
            raise ValueError(
                f"checkpoint {self.path}: it belongs to another run; "
                + "; ".join(f"{name} was {old!r}, now {new!r}" for name, old, new in differing)
            )
        return tensors, header["state"]


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            d
            for key in sorted({*old, *new})
            for d in _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if old == new else [(name, old, new)]


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"optimizer.{i}.{key}.{name}": value
        for i, optimizer in enumerate(optimizers)
        for key, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }


def _load_optimizers(optimizers: list[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer.{i}."):
                _, _, index, name = key.split(".", 3)
                state.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


class _Run:
    """The state of one run and the two loops over it."""

    checkpoint_seconds = 60.0

    def __init__(
        self,
        data: Dataset,
        config: TrainConfig,
        autoencoder: Autoencoder | None,
        checkpoint: str | os.PathLike[str] | None,
        callback: Callback | None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self.config = config
        self.cache = cache
        self.given = autoencoder
        self.callback = callback
        self.device = torch.device(config.device)
        self.dtype = torch.float32 if config.dtype == "float32" else torch.float64
        prepared = prepare(data.X, data.pixel_range, config.preset)
        self.X = torch.from_numpy(prepared).to(self.device, self.dtype)
        self.n = data.n_samples
        self.problem = config.problem(self.n, tuple(self.X.shape[1:]))
        # Pre-training sees a range of 1, whatever the units: then one learning rate fits all.
        scale = config.preset.pixel_range
        self.unit = 1.0 if scale is None else scale[1] - scale[0]
        self.pretraining: History = []
        self.history: History = []
        self.checkpoint: _Checkpoint | None = None
        if checkpoint is not None:
            identity = {
                "config": asdict(config) | {"method": config.method.settings()},
                "data": [list(prepared.shape), hashlib.sha256(prepared.data).hexdigest()],
                "autoencoder": None if autoencoder is None else digest(autoencoder.state_dict().values()),
            }
            self.checkpoint = _Checkpoint(Path(checkpoint), identity)
        self.saved_at = time.monotonic()

    # -- pre-training --

    def pretrained(self, resume: bool) -> tuple[Autoencoder, History]:
        found = self._read(resume)
        if found is not None and found[1]["phase"] == "train":
            raise ValueError(
                "pretrain: resume: expected a checkpoint of pre-training, got one that has gone on to training; resume "
                "it with fit"
            )
        with _DeferredInterrupt() as interrupt:
            return self._pretrain(found, interrupt), self.pretraining

    def _pretrain(
        self, found: tuple[dict[str, Tensor], dict[str, Any]] | None, interrupt: _DeferredInterrupt
    ) -> Autoencoder:
        values = min(self.config.pretraining.batch_size, self.n) * self.X[0].numel()
        small = self.device.type == "cpu" and values <= SMALL_BATCH
        with _one_thread() if small else contextlib.nullcontext():
            return self._pretrain_to_plateau(found, interrupt)

    def _pretrain_to_plateau(
        self,
        found: tuple[dict[str, Tensor], dict[str, Any]] | None,
        interrupt: _DeferredInterrupt,
    ) -> Autoencoder:
        rule = self.config.pretraining
        x = self.X / self.unit
        per_epoch = -(-self.n // rule.batch_size)
        trial_epochs = -(-rule.trial_steps // per_epoch)
        last_epoch = max(-(-rule.max_steps // per_epoch), trial_epochs)

        if found is None:
            trials = []
            for draw in range(rule.draws):
                candidate, optimizer = self._new_autoencoder(draw)
                errors = []
                for epoch in range(trial_epochs):
                    errors.append(self._pretrain_epoch(candidate, optimizer, x, epoch))
                    if interrupt.requested:
                        raise KeyboardInterrupt  # seconds into the run: nothing worth saving yet
                trials.append((errors, candidate, optimizer))
            # The first of equals: reproducible, and NaN, which compares as False, never wins.
            errors, autoencoder, optimizer = min(
                trials, key=lambda t: t[0][-1] if math.isfinite(t[0][-1]) else math.inf
            )
            self.pretraining = [{"epoch": i + 1, "rmse": e} for i, e in enumerate(errors)]
        else:
            tensors, state = found
            autoencoder, optimizer = self._new_autoencoder(0)
            self._load(autoencoder, tensors)
            _load_optimizers([optimizer], tensors)
            self.pretraining = state["pretraining"]
            if state["phase"] == "pretrained":
                return autoencoder

        def finished() -> bool:
            errors = [row["rmse"] for row in self.pretraining]
            if len(errors) >= last_epoch or errors[-1] < rule.floor:
                return True
            return len(errors) * per_epoch >= rule.min_steps and has_plateaued(errors, rule.tolerance)

        def save(phase: str) -> None:
            self._save(phase, autoencoder, [optimizer])

        while not finished():
            epoch = len(self.pretraining)
            error = self._pretrain_epoch(autoencoder, optimizer, x, epoch)
            self._check_finite(error, "pretrain", epoch)
            self.pretraining.append({"epoch": epoch + 1, "rmse": error})
            self._after_epoch("pretrain", last_epoch, self.pretraining, interrupt, save)
        autoencoder.rescale_(self.unit)
        save("pretrained")
        return autoencoder

    def _new_autoencoder(self, draw: int) -> tuple[Autoencoder, torch.optim.Optimizer]:
        generator = generator_for(self.config.seed, _INIT, draw)
        autoencoder = build_autoencoder(self.config.preset, tuple(self.X.shape[1:]), generator)
        autoencoder.to(self.device, self.dtype)
        return autoencoder, torch.optim.Adam(autoencoder.parameters(), lr=self.config.pretraining.lr)

    def _pretrain_epoch(
        self, autoencoder: Autoencoder, optimizer: torch.optim.Optimizer, x: Tensor, epoch: int
    ) -> float:
        generator = generator_for(self.config.seed, _PRETRAIN, epoch)
        total = x.new_zeros(())
        for rows in _batches(self.n, -(-self.n // self.config.pretraining.batch_size), generator):
            batch = x[rows.to(self.device)]
            loss = (autoencoder(batch) - batch).square().sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return math.sqrt(float(total) / x.numel())

    # -- the method's epochs --

    def trained(self, resume: bool) -> TrainResult:
        found = self._read(resume)
        in_training = found is not None and found[1]["phase"] == "train"
        method = self.config.method
        if isinstance(method, ClosedFormMethod):
            return self._result(self._model(None), None)
        with _DeferredInterrupt() as interrupt:
            pretrained = None
            if isinstance(method, AutoencoderMethod):
                pretrained = self._pretrained(method, found, interrupt)
            return self._train(pretrained, found if in_training else None, interrupt)

    def _model(self, pretrained: Pretrained | None) -> Model:
        model = self.config.method.model(self.problem, pretrained, generator_for(self.config.seed, _MODEL))
        return model.to(self.device, self.dtype)

    def _result(self, model: Model, weights: LossWeights | None) -> TrainResult:
        latent = self._latent(model)
        with torch.no_grad():
            C = model.coefficients(latent).cpu()
        return TrainResult(C, latent.cpu(), self.history, self.pretraining, weights, model)

    def _pretrained(
        self,
        method: AutoencoderMethod,
        found: tuple[dict[str, Tensor], dict[str, Any]] | None,
        interrupt: _DeferredInterrupt,
    ) -> Pretrained:
        if found is not None and found[1]["phase"] == "train":
            autoencoder, _ = self._new_autoencoder(0)  # the checkpoint holds what it has become
            return Pretrained(autoencoder, LossWeights(**found[1]["weights"]))
        if self.given is not None:
            autoencoder = self.given.to(self.device, self.dtype)
        else:
            autoencoder = self._pretrain(found, interrupt)
        with torch.no_grad():
            latent = torch.cat([autoencoder.encoder(x) for x in self.X.split(self.problem.rows_per_batch)])
        weights = self.config.preset.weights or method.scale_free_weights(
            self.problem, float(self.X.square().sum()) / self.n, float(latent.square().sum()) / self.n
        )
        return Pretrained(autoencoder, weights)

    def _train(
        self,
        pretrained: Pretrained | None,
        found: tuple[dict[str, Tensor], dict[str, Any]] | None,
        interrupt: _DeferredInterrupt,
    ) -> TrainResult:
        config, problem = self.config, self.problem
        model = self._model(pretrained)
        assert isinstance(model, TrainedModel)
        optimizers = model.optimizers(config.preset.lr, problem.n_batches)
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        if found is not None:
            self._load(model, found[0])
            _load_optimizers(optimizers, found[0])
            self.pretraining, self.history = found[1]["pretraining"], found[1]["history"]
        else:
            self._start(model, interrupt)
        weights = None if pretrained is None else pretrained.weights

        def save(phase: str) -> None:
            self._save(phase, model, optimizers, weights=None if weights is None else asdict(weights))

        n_epochs = config.n_epochs(problem)
        while len(self.history) < n_epochs:
            epoch = len(self.history)
            for optimizer, own in zip(optimizers, rates, strict=True):
                for group, rate in zip(optimizer.param_groups, own, strict=True):
                    group["lr"] = rate * model.lr_factor(epoch, n_epochs)
            model.begin_epoch(self.X, epoch, generator_for(config.seed, _EPOCH, epoch))
            metrics = self._train_epoch(model, optimizers, epoch)
            self._check_finite(metrics["loss"], "train", epoch)
            self.history.append({"epoch": epoch + 1, **metrics})
            self._after_epoch("train", n_epochs, self.history, interrupt, save)
        save("train")
        model.finish()
        return self._result(model, weights)

    def _start(self, model: TrainedModel, interrupt: _DeferredInterrupt) -> None:
        def report(done: int, of: int) -> None:
            if self.callback is not None:
                self.callback(Progress("views", done, of, {}))
            if interrupt.requested:
                raise KeyboardInterrupt  # before the first step: nothing worth saving yet

        model.report, model.cache = report, usable(self.cache)
        try:
            model.start(self.X, self._latent(model))
        finally:
            model.report = model.cache = None  # the model outlives the run

    def _train_epoch(
        self, model: TrainedModel, optimizers: list[torch.optim.Optimizer], epoch: int
    ) -> dict[str, float]:
        config = self.config
        batches: tuple[Tensor, ...] | tuple[None]
        if self.problem.n_batches == 1:
            batches = (None,)  # all rows in order: nothing to gather, nothing to shuffle
        else:
            generator = generator_for(config.seed, _TRAIN, epoch) if config.shuffle else None
            batches = _batches(self.n, self.problem.n_batches, generator)
        terms: dict[str, Tensor] = {}
        measures: dict[str, Tensor] = {}
        for rows in batches:
            if rows is not None:
                rows = rows.to(self.device)
            loss = model.batch_loss(self.X if rows is None else self.X[rows], rows)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.objective.backward()  # type: ignore[no-untyped-call]
            if model.max_gradient_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), model.max_gradient_norm)
            for optimizer in optimizers:
                optimizer.step()
            for totals, parts in ((terms, loss.terms), (measures, loss.measures)):
                for name, value in parts.items():
                    totals[name] = totals[name] + value if name in totals else value
        values = {name: float(value) for name, value in terms.items()}
        means = {name: float(value) / self.n for name, value in measures.items()}
        return {"loss": sum(values.values()), **values, **means, **model.epoch_measures()}

    @torch.no_grad()
    def _latent(self, model: Model) -> Tensor:
        return model.latent(self.X, self.problem.rows_per_batch)

    # -- between epochs --

    def _after_epoch(
        self,
        phase: Literal["pretrain", "train"],
        epochs: int,
        history: History,
        interrupt: _DeferredInterrupt,
        save: Callable[[str], None],
    ) -> None:
        try:
            if self.callback is not None:
                metrics = {name: value for name, value in history[-1].items() if name != "epoch"}
                self.callback(Progress(phase, len(history), epochs, metrics))
            if interrupt.requested:
                raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            if self.checkpoint is None:
                raise
            save(phase)
            raise TrainingInterrupted(
                f"stopped after {len(self.pretraining)} epochs of pre-training and "
                f"{len(self.history)} of training; the state is in {self.checkpoint.path}, "
                "run again with resume to go on from there"
            ) from stop
        if self.checkpoint and time.monotonic() - self.saved_at > self.checkpoint_seconds:
            save(phase)

    @staticmethod
    def _check_finite(value: float, phase: str, epoch: int) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"{phase}: the loss is {value} at epoch {epoch + 1}; a smaller learning rate, "
                "or data on the scale of the preset, may help"
            )

    # -- checkpoint --

    def _read(self, resume: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        if resume and self.checkpoint is None:
            raise ValueError("fit: resume: expected a checkpoint to resume from, got None")
        return self.checkpoint.read() if self.checkpoint and resume else None

    def _save(
        self,
        phase: str,
        module: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        **state: Any,
    ) -> None:
        if self.checkpoint is None:
            return
        tensors = {f"model.{name}": t for name, t in module.state_dict().items()}
        tensors.update(_optimizer_tensors(optimizers))
        state.update(phase=phase, pretraining=self.pretraining, history=self.history)
        self.checkpoint.write(tensors, state)
        self.saved_at = time.monotonic()

    @staticmethod
    def _load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        prefix = "model."
        module.load_state_dict({k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)})
