"""Progress of a fit: bars on a terminal, plain lines in logs and pipes.

Owns what a phase is called and which figure stands beside it; a phase that it does not know goes by its own name.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dsclust.cli.console import say

if TYPE_CHECKING:
    from dsclust.progress import Progress

_TITLES = {"pretrain": "pre-training", "train": "training"}


class Display(ABC):
    """Show progress; a context, for a terminal has to be tidied up."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027 (nothing to tidy up)
        pass

    def tell(self, progress: Progress) -> None:
        """Show what a callback is told: its note as a step of its own, or else the epoch."""
        if progress.note:
            self.step(progress.note)
        else:
            self.epoch(progress)

    @abstractmethod
    def step(self, title: str) -> None:
        """Show that something else begins, or was decided."""

    @abstractmethod
    def epoch(self, progress: Progress) -> None:
        """Show that an epoch of a phase is done."""


class Lines(Display):
    """Print plain lines: the first epoch, each tenth of a phase and every 30 s."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.phase = ""
        self.shown = 0.0

    def step(self, title: str) -> None:
        say(self.console, title)

    def epoch(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.phase != self.phase:
            self.phase, self.began, self.first, self.tenth = progress.phase, now, progress.epoch, -1
        tenth = 10 * progress.epoch // max(progress.epochs, 1)
        if tenth == self.tenth and now - self.shown < 30:
            return
        self.tenth, self.shown = tenth, now
        done = progress.epoch - self.first
        left = (now - self.began) / max(done, 1) * (progress.epochs - progress.epoch)
        title, figure = describe(progress)
        eta = f"  ETA {_clock(left)}" if done else ""
        say(self.console, f"{title} {progress.epoch}/{progress.epochs}  {figure}{eta}")


class Bars(Display):
    """Draw a bar a phase, with loss and remaining time."""

    def __init__(self, console: Console) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=16),  # all of it fits 80 columns
            MofNCompleteColumn(),
            TextColumn("{task.fields[figure]:<14}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def _finish(self) -> None:
        for task in self.bars.tasks:
            if not task.finished:  # pre-training ends when its error does, not at the last epoch
                self.bars.update(task.id, total=max(task.completed, 1))

    def step(self, title: str) -> None:
        self._finish()
        say(self.bars.console, title)

    def epoch(self, progress: Progress) -> None:
        title, figure = describe(progress)
        if title not in self.tasks:
            self._finish()
            self.tasks[title] = self.bars.add_task(title, total=progress.epochs, figure="")
        self.bars.update(self.tasks[title], completed=progress.epoch, figure=figure)


def display_for(console: Console) -> Display:
    """Choose bars for a terminal and lines for anything else."""
    return Bars(console) if console.is_terminal else Lines(console)


def describe(progress: Progress) -> tuple[str, str]:
    """Return the title of a phase, and its figure of the moment or nothing."""
    figure = ""
    if "rmse" in progress.metrics:
        figure = f"rmse {progress.metrics['rmse']:.4f}"
    elif "loss" in progress.metrics:
        figure = f"loss {progress.metrics['loss']:.4g}"
    return _TITLES.get(progress.phase, progress.phase), figure


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
