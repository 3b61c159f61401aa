"""Experiments: `dsclust experiment NAME`. A small file each says what is compared; the runner runs, the page is
written.
"""

from __future__ import annotations

from importlib import import_module

from dsclust.experiments.experiment import Experiment

NAMES = ("table1", "figure4", "consistency", "anchor", "sscn", "features", "auto", "clbdsc-vs-bdsc", "scale")


def get_experiment(name: str) -> Experiment:
    """The experiment called `name`. Raises ValueError for an unknown one."""
    if name not in NAMES:
        raise ValueError(f"experiment: name: expected one of {', '.join(NAMES)}, got {name!r}")
    found: Experiment = import_module(f"dsclust.experiments.{name.replace('-', '_')}").EXPERIMENT
    return found
