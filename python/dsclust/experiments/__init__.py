"""Experiments: `dsclust experiment NAME`. A small file each says what is compared; `runner` runs it, `results` writes
the page, in the order of :data:`dsclust.names.ExperimentName`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from dsclust.names import ExperimentName, words

if TYPE_CHECKING:  # a process that answers a call loads this package, and need not load what an experiment is made of
    from dsclust.experiments.experiment import Experiment


def get_experiment(name: str) -> Experiment:
    """Return the experiment called `name`. Raises ValueError for an unknown one."""
    names = words(ExperimentName)
    if name not in names:
        raise ValueError(f"experiment: name: expected one of {', '.join(names)}, got {name!r}")
    found: Experiment = import_module(f"dsclust.experiments.{name.replace('-', '_')}").EXPERIMENT
    return found
