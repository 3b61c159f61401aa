"""What long work tells whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """Tell how far a phase of a run has come.

    phase: "choice", "features", "pretrain", "views" or "train"; epoch, epochs: those done and the most there can be
    (pre-training may stop before); in "features", and in "views" that a frozen network of the method makes features of,
    images that are done count for epochs. metrics: as in the history. "pretrain": rmse, in units of the samples' range.
    "train": loss, its weighted terms and the method's measures, such as BDSC's drift. "choice": the normalized cut a
    cluster of each representation. note: what was decided, in a line.
    """

    phase: Literal["choice", "features", "pretrain", "views", "train"]
    epoch: int
    epochs: int
    metrics: Mapping[str, float]
    note: str = ""


Callback = Callable[[Progress], None]
