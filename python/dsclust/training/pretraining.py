"""Pre-training: the autoencoder learns the samples before C exists, until its error has stopped falling."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from dsclust.data import Dataset
from dsclust.parts.networks import Autoencoder, build_autoencoder
from dsclust.progress import Callback
from dsclust.training.checkpoint import Saved
from dsclust.training.config import History, TrainConfig
from dsclust.training.interrupt import DeferredInterrupt
from dsclust.training.randomness import Purpose, batches, generator_for
from dsclust.training.run import Run

# Values in a batch up to which a step runs on one thread: 128 images of 32 x 32.
SMALL_BATCH = 2**17

_Trained = tuple[Autoencoder, torch.optim.Optimizer]


def pretrain(
    data: Dataset,
    config: TrainConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callback: Callback | None = None,
) -> tuple[Autoencoder, History]:
    """Train the preset's autoencoder on the data alone; see `PretrainConfig` for the rule.

    Returns it in the preset's units, with its history. `checkpoint`, `resume`, `callback` and what
    is raised: as for :func:`dsclust.training.trainer.fit`.
    """
    run = Run(data, config, None, checkpoint, callback)
    saved = run.read(resume)
    if saved is not None and saved.state["phase"] == "train":
        raise ValueError(
            "pretrain: resume: expected a checkpoint of pre-training, got one that has gone on to training; resume "
            "it with fit"
        )
    with DeferredInterrupt() as interrupt:
        return pretrain_autoencoder(run, saved, interrupt), run.pretraining


def pretrain_autoencoder(run: Run, saved: Saved | None, interrupt: DeferredInterrupt) -> Autoencoder:
    """Return the run's autoencoder in the preset's units, trained from the start or from where it was saved."""
    values = min(run.config.pretraining.batch_size, run.n) * run.X[0].numel()
    small = run.device.type == "cpu" and values <= SMALL_BATCH
    with _one_thread() if small else contextlib.nullcontext():
        return _train_to_plateau(run, saved, interrupt)


def draw_autoencoder(run: Run, draw: int) -> Autoencoder:
    """Return the run's autoencoder, freshly drawn."""
    generator = generator_for(run.config.seed, Purpose.INIT, draw)
    autoencoder = build_autoencoder(run.config.preset, tuple(run.X.shape[1:]), generator)
    return autoencoder.to(run.device, run.dtype)


def has_plateaued(errors: list[float], tolerance: float) -> bool:
    """Return whether the lowest error of the second half is at most `tolerance` below the first half's.

    The window grows with the run: error curves fall roughly as a power of time, so that a window
    of fixed length would sooner or later call any of them flat.
    """
    recent = max(len(errors) // 2, 1)
    before = errors[:-recent]
    return bool(before) and min(errors[-recent:]) > (1.0 - tolerance) * min(before)


def _train_to_plateau(run: Run, saved: Saved | None, interrupt: DeferredInterrupt) -> Autoencoder:
    rule = run.config.pretraining
    # Pre-training sees a range of 1, whatever the units: then one learning rate fits all.
    scale = run.config.preset.pixel_range
    unit = 1.0 if scale is None else scale[1] - scale[0]
    x = run.X / unit
    per_epoch = -(-run.n // rule.batch_size)
    trial_epochs = -(-rule.trial_steps // per_epoch)
    last_epoch = max(-(-rule.max_steps // per_epoch), trial_epochs)

    if saved is None:
        autoencoder, optimizer = _best_draw(run, x, trial_epochs, interrupt)
    else:
        autoencoder, optimizer = _drawn_with_optimizer(run, 0)
        saved.load(autoencoder, [optimizer])
        run.pretraining = saved.state["pretraining"]
        if saved.state["phase"] == "pretrained":
            return autoencoder

    def finished() -> bool:
        errors = [row["rmse"] for row in run.pretraining]
        if len(errors) >= last_epoch or errors[-1] < rule.floor:
            return True
        return len(errors) * per_epoch >= rule.min_steps and has_plateaued(errors, rule.tolerance)

    def save(phase: str) -> None:
        run.save(phase, autoencoder, [optimizer])

    while not finished():
        epoch = len(run.pretraining)
        error = _train_epoch(run, autoencoder, optimizer, x, epoch)
        run.check_finite(error, "pretrain", epoch)
        run.pretraining.append({"epoch": epoch + 1, "rmse": error})
        run.after_epoch("pretrain", last_epoch, run.pretraining, interrupt, save)
    autoencoder.rescale_(unit)
    save("pretrained")
    return autoencoder


def _best_draw(run: Run, x: Tensor, epochs: int, interrupt: DeferredInterrupt) -> _Trained:
    """Train several initializations for some epochs and return that of the lowest error, whose history begins."""
    trials = []
    for draw in range(run.config.pretraining.draws):
        autoencoder, optimizer = _drawn_with_optimizer(run, draw)
        errors = []
        for epoch in range(epochs):
            errors.append(_train_epoch(run, autoencoder, optimizer, x, epoch))
            interrupt.stop_if_requested()  # seconds into the run: nothing worth saving yet
        trials.append((errors, autoencoder, optimizer))
    # The first of equals: reproducible, and NaN, which compares as False, never wins.
    errors, autoencoder, optimizer = min(trials, key=lambda t: t[0][-1] if math.isfinite(t[0][-1]) else math.inf)
    run.pretraining = [{"epoch": i + 1, "rmse": e} for i, e in enumerate(errors)]
    return autoencoder, optimizer


def _drawn_with_optimizer(run: Run, draw: int) -> _Trained:
    autoencoder = draw_autoencoder(run, draw)
    return autoencoder, torch.optim.Adam(autoencoder.parameters(), lr=run.config.pretraining.lr)


def _train_epoch(run: Run, autoencoder: Autoencoder, optimizer: torch.optim.Optimizer, x: Tensor, epoch: int) -> float:
    """Return the root mean square error of an epoch's batches."""
    generator = generator_for(run.config.seed, Purpose.PRETRAIN, epoch)
    total = x.new_zeros(())
    for rows in batches(run.n, -(-run.n // run.config.pretraining.batch_size), generator):
        batch = x[rows.to(run.device)]
        loss = (autoencoder(batch) - batch).square().sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return math.sqrt(float(total) / x.numel())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one CPU thread for what is inside, then as many as before.

    A step on a small batch is a chain of operations too short to share: a second thread gains little on an idle machine
    and, where cores are busy, makes every one of them wait for it (digits: 4 s became 22 s).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
