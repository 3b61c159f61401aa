"""What an experiment is: arms, seeds, published figures to compare with. Declarations; the runner does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsclust.baselines import Baseline
from dsclust.data import Dataset, load
from dsclust.features import FeatureConfig
from dsclust.parts.method import Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Data:
    """Name a data set, and the file in the folder of data that holds it.

    part, held_out: "train" or "test" of an archive that has both; the samples to cluster, and those that the fitted
    model labels afterwards. features: what methods and baselines get of them. per_class: samples of
    each class, None for all.
    """

    name: str
    file: str
    n_clusters: int
    pixel_range: tuple[float, float]
    part: str | None = None
    held_out: str | None = None
    features: FeatureConfig = field(default_factory=FeatureConfig)
    per_class: int | None = None

    def as_features(self, what: str, features: FeatureConfig) -> Data:
        """Return the same samples as features, by a name that says which."""
        return replace(self, name=f"{self.name} {what}", features=features)

    def thinned(self, per_class: int) -> Data:
        """Return so many samples of every class, drawn at random once and for all."""
        return replace(self, name=f"{self.name}, {per_class} a class", per_class=per_class)

    def read(self, folder: Path) -> tuple[Dataset, Dataset | None]:
        """Read the samples and those held out. Raises FileNotFoundError where the folder lacks the file."""
        path = folder / self.file
        if not path.is_file():
            raise FileNotFoundError(f"experiment: data: expected {self.file} in {folder}")
        if self.part is None:
            data = load(path, pixel_range=self.pixel_range)
            return data if self.per_class is None else _thinned(data, self.per_class), None
        with np.load(path, allow_pickle=False) as archive:
            parts = {p: (archive[f"x_{p}"], archive[f"y_{p}"]) for p in (self.part, self.held_out) if p is not None}

        def dataset(part: str) -> Dataset:
            X, labels = parts[part]
            return load(X, labels=labels, pixel_range=self.pixel_range, name=f"{path.stem}-{part}")

        return dataset(self.part), None if self.held_out is None else dataset(self.held_out)


def _thinned(data: Dataset, per_class: int) -> Dataset:
    assert data.labels is not None
    random = np.random.default_rng(0)
    drawn = [random.permutation(np.flatnonzero(data.labels == c))[:per_class] for c in np.unique(data.labels)]
    return data.take(np.sort(np.concatenate(drawn)))


ORL = Data("orl", "orl_32x32.mat", 40, (0.0, 255.0))
ORL_LARGE = Data("orl-112x92", "orl_112x92.npz", 40, (0.0, 255.0))
COIL20 = Data("coil20", "coil20_32x32.mat", 20, (0.0, 1.0))
COIL100 = Data("coil100 gray", "coil100_32x32.npz", 100, (0.0, 255.0))
COIL100_RGB = Data("coil100 rgb", "coil100_64x64_rgb.npz", 100, (0.0, 255.0))
MNIST_ALL = Data("mnist-70k", "mnist.npz", 10, (0.0, 255.0))
MNIST = Data("mnist-10k", "mnist.npz", 10, (0.0, 255.0), part="test", held_out="train")


@dataclass(frozen=True)
class Arm:
    """Declare one setting, run with every seed: data, method, and options of :func:`dsclust.pipeline.cluster`.

    method: None leaves method and features to :func:`dsclust.auto.choose`. batches: how many an epoch has; None takes
    the method's own batch size.
    """

    label: str
    data: Data
    method: Method | None
    batches: int | None = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the result, as plain values; part of a record's identity."""
        return {
            "label": self.label,
            "data": self.data.name,
            "method": {"name": "auto"} if self.method is None else self.method.settings(),
            "batches": self.batches,
            "options": dict(self.options),
        }


@dataclass(frozen=True)
class Published:
    """Quote a figure from the literature, a share or None where none was given. held_out: ACC of samples not fitted."""

    label: str
    data: Data
    acc: float | None
    nmi: float | None
    ari: float | None
    source: str
    held_out: float | None = None


@dataclass(frozen=True)
class Experiment:
    """Declare arms and seeds, a question, what it turned out to be, and the figure that shows it.

    reading: what the measured table says, in words; written after looking at it. figure: of all records.
    baseline_features: what the baselines get instead of the samples, where the method itself makes features of them.
    peers: what else runs where the baselines do, on the first data set alone. stages: tell wall seconds of C, graph and
    labels apart, and cpu seconds.
    """

    name: str
    title: str
    question: str
    arms: tuple[Arm, ...]
    seeds: int
    figure: Callable[[list[dict[str, Any]]], Figure]
    published: tuple[Published, ...] = ()
    baseline_seeds: int = 5
    baseline_features: FeatureConfig | None = None
    peers: Mapping[str, Baseline] = field(default_factory=dict)
    stages: bool = False
    reading: str = ""

    @property
    def data(self) -> tuple[Data, ...]:
        """List the data sets of the arms, each once."""
        return tuple(dict.fromkeys(arm.data for arm in self.arms))
