"""Ctrl-C in a loop: caught at once, acted on between epochs; and how a run says that it was stopped, or went wrong."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C, after the state was saved; the message says where and how to resume."""


class DivergedError(RuntimeError):
    """The loss is no longer finite."""


class DeferredInterrupt:
    """Turn the first Ctrl-C into a flag that is looked at between epochs.

    Outside the main thread, where signals cannot be caught, it leaves them alone.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> DeferredInterrupt:
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

    def stop_if_requested(self) -> None:
        """Raise KeyboardInterrupt where Ctrl-C has come."""
        if self.requested:
            raise KeyboardInterrupt
