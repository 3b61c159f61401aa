"""Training: the epochs of a method, after its autoencoder was pre-trained; and closed forms, which take none.

Owns the loop over epochs and batches. Has no numerics of its own: losses and optimizers come from `dsclust.methods`. A
run that was stopped and resumed is equal, bit by bit, to one that was not, on the same machine and thread count.
"""

from __future__ import annotations

import os
from dataclasses import asdict

import torch
from torch import Tensor, nn

from dsclust.data import Dataset
from dsclust.features.cache import writable_folder
from dsclust.parts.method import (
    AutoencoderMethod,
    ClosedFormMethod,
    Pretrained,
    Start,
    TrainedMethod,
    TrainedModel,
)
from dsclust.parts.networks import Autoencoder
from dsclust.presets import LossWeights
from dsclust.progress import Callback, Progress
from dsclust.training.checkpoint import Saved
from dsclust.training.config import TrainConfig, TrainResult
from dsclust.training.interrupt import DeferredInterrupt
from dsclust.training.pretraining import draw_autoencoder, pretrain_autoencoder
from dsclust.training.randomness import Purpose, batches, generator_for
from dsclust.training.run import Run


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
    """Train a method and return its coefficient matrix, that of the last epoch: nothing is selected.

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

    Raises TypeError for a closed form (:func:`solve` takes it), ValueError for data that do not fit the preset and for
    a checkpoint of another run (it names the settings that differ), DivergedError, and TrainingInterrupted, a
    KeyboardInterrupt. Deterministic on a CPU for a given number of threads. True labels are never read.
    """
    method = config.method
    if not isinstance(method, TrainedMethod):
        raise TypeError(f"fit: method: expected one that is trained, got {method.name!r}, which solve() takes")
    run = Run(data, config, autoencoder, checkpoint, callback)
    saved = run.read(resume)
    with DeferredInterrupt() as interrupt:
        pretrained = None
        if isinstance(method, AutoencoderMethod):
            pretrained = _pretrained(run, method, autoencoder, saved, interrupt)
        return _train(run, pretrained, saved, cache, interrupt)


def solve(data: Dataset, config: TrainConfig) -> TrainResult:
    """Return the coefficient matrix of a closed form: no step, no copy of the samples, no checkpoint.

    Deterministic on a CPU for a given number of threads. True labels are never read.
    """
    method = config.method
    assert isinstance(method, ClosedFormMethod)
    device, dtype = torch.device(config.device), torch.float32 if config.dtype == "float32" else torch.float64
    problem = config.problem(data.n_samples, data.sample_shape)
    model = method.model(problem, None, generator_for(config.seed, Purpose.MODEL)).to(device, dtype)
    with torch.no_grad():
        latent = model.start(data.samples, device, dtype)
        C = model.coefficients(latent).cpu()
    return TrainResult(C, latent.cpu(), [], [], None, model)


def _pretrained(
    run: Run,
    method: AutoencoderMethod,
    given: Autoencoder | None,
    saved: Saved | None,
    interrupt: DeferredInterrupt,
) -> Pretrained:
    if saved is not None and saved.state["phase"] == "train":  # the checkpoint holds what it has become
        return Pretrained(draw_autoencoder(run, 0), LossWeights(**saved.state["weights"]))
    if given is not None:
        autoencoder = given.to(run.device, run.dtype)
    else:
        autoencoder = pretrain_autoencoder(run, saved, interrupt)
    with torch.no_grad():
        latent = torch.cat([autoencoder.encoder(x) for x in run.X.split(run.problem.rows_per_batch)])
    weights = run.config.preset.weights or method.scale_free_weights(
        run.problem, float(run.X.square().sum()) / run.n, float(latent.square().sum()) / run.n
    )
    return Pretrained(autoencoder, weights)


def _train(
    run: Run,
    pretrained: Pretrained | None,
    saved: Saved | None,
    cache: str | os.PathLike[str] | None,
    interrupt: DeferredInterrupt,
) -> TrainResult:
    config, problem = run.config, run.problem
    model = config.method.model(problem, pretrained, generator_for(config.seed, Purpose.MODEL))
    assert isinstance(model, TrainedModel)
    model.to(run.device, run.dtype)
    optimizers = model.optimizers(config.preset.lr, problem.n_batches)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    if saved is not None and saved.state["phase"] == "train":
        saved.load(model, optimizers)
        run.pretraining, run.history = saved.state["pretraining"], saved.state["history"]
    else:
        _start(run, model, cache, interrupt)
    weights = None if pretrained is None else pretrained.weights

    def save(phase: str) -> None:
        run.save(phase, model, optimizers, weights=None if weights is None else asdict(weights))

    n_epochs = config.n_epochs(problem)
    while len(run.history) < n_epochs:
        epoch = len(run.history)
        for optimizer, own in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, own, strict=True):
                group["lr"] = rate * model.lr_factor(epoch, n_epochs)
        metrics = _train_epoch(run, model, optimizers, epoch)
        run.check_finite(metrics["loss"], "train", epoch)
        run.history.append({"epoch": epoch + 1, **metrics})
        run.after_epoch("train", n_epochs, run.history, interrupt, save)
    save("train")
    model.finish()
    with torch.no_grad():
        latent = model.latent(run.X, problem.rows_per_batch)
        C = model.coefficients(latent).cpu()
    return TrainResult(C, latent.cpu(), run.history, run.pretraining, weights, model)


def _start(run: Run, model: TrainedModel, cache: str | os.PathLike[str] | None, interrupt: DeferredInterrupt) -> None:
    def report(done: int, of: int) -> None:
        if run.callback is not None:
            run.callback(Progress("views", done, of, {}))
        interrupt.stop_if_requested()  # before the first step: nothing worth saving yet

    with torch.no_grad():
        model.start(run.X, Start(run.problem.rows_per_batch, report, writable_folder(cache)))


def _train_epoch(
    run: Run, model: TrainedModel, optimizers: list[torch.optim.Optimizer], epoch: int
) -> dict[str, float]:
    seed = run.config.seed
    model.begin_epoch(run.X, epoch, generator_for(seed, Purpose.EPOCH, epoch))
    order: tuple[Tensor, ...] | tuple[None]
    if run.problem.n_batches == 1:
        order = (None,)  # all rows in order: nothing to gather, nothing to shuffle
    else:
        generator = generator_for(seed, Purpose.TRAIN, epoch) if run.config.method.shuffles else None
        order = batches(run.n, run.problem.n_batches, generator)
    terms: dict[str, Tensor] = {}
    measures: dict[str, Tensor] = {}
    for rows in order:
        if rows is not None:
            rows = rows.to(run.device)
        loss = model.batch_loss(run.X if rows is None else run.X[rows], rows)
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
    values = {name: float(value) for name, value in terms.items()} | dict(model.epoch_terms())
    means = {name: float(value) / run.n for name, value in measures.items()}
    return {"loss": sum(values.values()), **values, **means, **model.epoch_measures()}
