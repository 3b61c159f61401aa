"""What both loops of a training run share: samples, sizes, histories, and what happens between two epochs."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dsclust.data import Dataset
from dsclust.files import digest
from dsclust.parts.networks import Autoencoder
from dsclust.progress import Callback, Progress
from dsclust.training.checkpoint import Checkpoint, Saved
from dsclust.training.config import History, TrainConfig
from dsclust.training.interrupt import DeferredInterrupt, DivergedError, TrainingInterrupted

Phase = Literal["pretrain", "train"]


class Run:
    """The state of one run beside its networks. Raises ValueError for data that do not fit the preset."""

    checkpoint_seconds = 60.0

    def __init__(
        self,
        data: Dataset,
        config: TrainConfig,
        autoencoder: Autoencoder | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.config = config
        self.callback = callback
        self.device = torch.device(config.device)
        self.dtype = torch.float32 if config.dtype == "float32" else torch.float64
        prepared = config.method.prepare(data.X, data.pixel_range, config.preset)
        self.X = torch.from_numpy(prepared).to(self.device, self.dtype)
        self.n = data.n_samples
        self.problem = config.problem(self.n, tuple(self.X.shape[1:]))
        self.pretraining: History = []
        self.history: History = []
        self.checkpoint: Checkpoint | None = None
        if checkpoint is not None:
            identity = {
                "config": asdict(config) | {"method": config.method.settings()},
                "data": [list(prepared.shape), hashlib.sha256(prepared.data).hexdigest()],
                "autoencoder": None if autoencoder is None else digest(autoencoder.state_dict().values()),
            }
            self.checkpoint = Checkpoint(Path(checkpoint), identity)
        self.saved_at = time.monotonic()

    def read(self, resume: bool) -> Saved | None:
        """Return what the checkpoint holds, where the run is to go on with it."""
        if resume and self.checkpoint is None:
            raise ValueError("fit: resume: expected a checkpoint to resume from, got None")
        return self.checkpoint.read() if self.checkpoint and resume else None

    def save(self, phase: str, module: nn.Module, optimizers: list[torch.optim.Optimizer], **state: Any) -> None:
        """Write the checkpoint, if there is to be one."""
        if self.checkpoint is None:
            return
        state.update(phase=phase, pretraining=self.pretraining, history=self.history)
        self.checkpoint.write(module, optimizers, state)
        self.saved_at = time.monotonic()

    def after_epoch(
        self, phase: Phase, epochs: int, history: History, interrupt: DeferredInterrupt, save: Callable[[str], None]
    ) -> None:
        """Report the last epoch of a history, and save: once a minute, and where Ctrl-C has come."""
        try:
            if self.callback is not None:
                metrics = {name: value for name, value in history[-1].items() if name != "epoch"}
                self.callback(Progress(phase, len(history), epochs, metrics))
            interrupt.stop_if_requested()
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
    def check_finite(value: float, phase: Phase, epoch: int) -> None:
        """Raise DivergedError where a loss is not finite."""
        if not math.isfinite(value):
            raise DivergedError(
                f"{phase}: the loss is {value} at epoch {epoch + 1}; a smaller learning rate, "
                "or data on the scale of the preset, may help"
            )
