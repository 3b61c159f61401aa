"""The front door: a data set in, labels and a model out. The command line, the estimators and experiments all call it.

Owns the order of things: settings are refused before any work, then the choice where nobody named a method
(`dsclust.auto`), features (`dsclust.features`), C (`dsclust.training`), graph and labels (`dsclust.graph`), and what
labels new samples (`dsclust.predictor`). Composes only; has no numerics of its own.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dsclust import memory
from dsclust.auto import Choice, choose
from dsclust.checks import integer, number, one_of
from dsclust.data import Dataset, load
from dsclust.features import FeatureConfig, FeatureMap, as_config
from dsclust.features.map import fit_map
from dsclust.graph.affinity import AffinityMatrix, coefficient_affinity, scipy_csr
from dsclust.graph.clustering import SpectralLabels, spectral_labels
from dsclust.graph.subspaces import subspace_bases
from dsclust.methods import METHODS
from dsclust.names import AUTO, Affinity, AssignLabels, words
from dsclust.parts.method import ClosedFormMethod, Method
from dsclust.parts.networks import Autoencoder
from dsclust.predictor import Predictor
from dsclust.presets import GraphConfig, Preset, choose_preset
from dsclust.progress import Callback, Progress
from dsclust.samples import Array
from dsclust.training.config import PretrainConfig, TrainConfig, TrainResult
from dsclust.training.randomness import Purpose, generator_for
from dsclust.training.trainer import fit, solve

# Settings of the graph that the post-processing alone has.
_POST_ALONE = ("threshold", "power", "unit_diagonal")


@dataclass(frozen=True)
class LabelConfig:
    """From C to labels: :func:`dsclust.graph.affinity.coefficient_affinity`, then
    :func:`dsclust.graph.clustering.spectral_clustering`.
    """

    graph: GraphConfig
    n_eigenvectors: int | None
    assign_labels: AssignLabels

    def settings(self) -> dict[str, Any]:
        """Return all of it as plain values, on one level."""
        own = {"n_eigenvectors": self.n_eigenvectors, "assign_labels": self.assign_labels}
        return {**dataclasses.asdict(self.graph), **own}


@dataclass(frozen=True)
class FitResult:
    """What a run found and every setting it ran with.

    labels: (N,) int64. affinity: (N, N), dense or CSR. choice: method and features, and by what they were chosen where
    nobody named them. training: C, the network and the history. feature_config: what the method was given instead of
    the samples. seconds: wall time of the choice, of features, of training, of C to the graph and of that to labels;
    together all of it.
    spectral: labels of spectral clustering, and what can be said of them without the true ones; `labels` are the same,
    or for some methods the predictor's. predictor: what labels new samples. data: what the method was given.
    """

    labels: npt.NDArray[np.int64]
    affinity: AffinityMatrix
    choice: Choice
    training: TrainResult
    train_config: TrainConfig
    feature_config: FeatureConfig
    label_config: LabelConfig
    seconds: dict[str, float]
    spectral: SpectralLabels
    predictor: Predictor
    data: Dataset

    @property
    def coefficients(self) -> AffinityMatrix:
        """C (N, N), an array or `scipy.sparse.csr_array`; row i holds the coefficients of sample i."""
        C = self.training.coefficients
        return scipy_csr(C) if C.layout is torch.sparse_csr else C.numpy()

    @property
    def subspace_bases(self) -> list[Array]:
        """Of each cluster (d, h), see :func:`dsclust.graph.subspaces.subspace_bases`."""
        dim = self.label_config.graph.subspace_dim
        return subspace_bases(self.training.latent.numpy(), self.labels, self.train_config.n_clusters, dim)


def cluster(
    data: Dataset | npt.ArrayLike,
    n_clusters: int,
    method: str | Method = AUTO,
    *,
    features: str | FeatureConfig | None = None,
    feature_cache: str | os.PathLike[str] | None = None,
    preset: str | Preset | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    pretrain_steps: int | None = None,
    autoencoder: Autoencoder | None = None,
    affinity: Affinity | None = None,
    threshold: float | None = None,
    subspace_dim: int | None = None,
    power: float | None = None,
    unit_diagonal: bool | None = None,
    n_eigenvectors: int | None = None,
    assign_labels: AssignLabels | None = None,
    seed: int = 0,
    device: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callback: Callback | None = None,
) -> FitResult:
    """Cluster a data set into `n_clusters` groups.

    data
        What :func:`dsclust.load` gives, or an array that it takes. `data.labels` are never read.
    method
        A name of `dsclust methods`, a `Method` with its settings, or "auto": a closed form on the features whose graph
        cuts best, see :func:`dsclust.auto.choose`.
    features
        What the method gets instead of the samples, a `FeatureConfig` or the name of one's kind; with "auto" None
        leaves the choice open, otherwise it means the samples as they are. feature_cache: `cache` of
        :func:`dsclust.features.fit_features`, none by default.
    preset, batch_size, epochs, lr, pretrain_steps, autoencoder
        Of training, see :class:`dsclust.BDSC`; refused where the method has no such thing. None takes the preset's or
        the method's. Data that a preset was made for take it by themselves where they are trained on as they are.
    affinity, threshold, subspace_dim, power, unit_diagonal, n_eigenvectors, assign_labels
        From C to labels; None takes the preset's or the method's.
    device
        "cpu", "cuda" or "cuda:N", for the choice, features and training; None takes CUDA where there is one.
    checkpoint, resume, callback
        Those of :func:`dsclust.training.trainer.fit`, for a method that is trained; `callback` hears of all phases.

    Raises ValueError or TypeError naming the setting, MissingExtraError, and MemoryError where features or the arrays
    of size N² cannot fit, all before the method's work begins; then what training raises. Deterministic on a CPU for a
    given number of threads.
    """
    data = data if isinstance(data, Dataset) else load(data)
    training = _given(preset=preset, batch_size=batch_size, epochs=epochs, lr=lr, pretrain_steps=pretrain_steps)
    graph = _given(
        affinity=affinity, threshold=threshold, subspace_dim=subspace_dim, power=power, unit_diagonal=unit_diagonal
    )
    named = _named_method(method)
    owner = AUTO if named is None else named.title
    _check(owner, data.n_samples, n_clusters, training, affinity, assign_labels)
    _refuse_options(owner, named, training | _given(autoencoder=autoencoder))
    wanted = _Wanted(
        data, int(n_clusters), training, graph, n_eigenvectors, assign_labels, seed, _usable_device(device, owner),
        feature_cache, autoencoder, checkpoint, resume, callback,
    )  # fmt: skip
    clock = _Clock()
    with clock("choice"):
        choice = _choose(wanted, named, features)
    return _carry_out(wanted, choice, clock)


@dataclass(frozen=True)
class _Wanted:
    """The arguments of :func:`cluster`, checked; of the options of training and of the graph those that were given."""

    data: Dataset
    n_clusters: int
    training: dict[str, Any]
    graph: dict[str, Any]
    n_eigenvectors: int | None
    assign_labels: AssignLabels | None
    seed: int
    device: str
    feature_cache: str | os.PathLike[str] | None
    autoencoder: Autoencoder | None
    checkpoint: str | os.PathLike[str] | None
    resume: bool
    callback: Callback | None


def _choose(wanted: _Wanted, named: Method | None, features: str | FeatureConfig | None) -> Choice:
    if named is not None:
        return Choice(named, as_config(features))
    choice = choose(
        wanted.data,
        wanted.n_clusters,
        features=None if features is None else as_config(features),
        seed=wanted.seed,
        device=wanted.device,
        cache=wanted.feature_cache,
        callback=wanted.callback,
    )
    if wanted.callback is not None:
        wanted.callback(Progress("choice", 1, 1, choice.cuts, choice.reasons()))
    return choice


def _carry_out(wanted: _Wanted, choice: Choice, clock: _Clock) -> FitResult:
    """Run the method on the features that were chosen: everything is checked before the first of them is computed."""
    data, n_clusters, method = wanted.data, wanted.n_clusters, choice.method
    with clock("features"):
        feature_map = _feature_map(data, choice, wanted.device)
        sample_shape = data.sample_shape if feature_map is None else (feature_map.dim,)
        config = _train_config(wanted, choice, sample_shape)
        label_config = LabelConfig(
            config.preset.graph, wanted.n_eigenvectors, wanted.assign_labels or method.assign_labels
        )
        affinity = label_config.graph.affinity
        sizes = memory.Sizes(data.n_samples, config.batch_size, method, affinity, device=wanted.device)
        memory.check_run(sizes, config.preset, n_clusters)
        if feature_map is not None:
            data = fit_map(feature_map, data, cache=wanted.feature_cache, callback=wanted.callback)
    with clock("training"):
        if isinstance(method, ClosedFormMethod):
            training = solve(data, config)
        else:
            training = fit(
                data,
                config,
                autoencoder=wanted.autoencoder,
                checkpoint=wanted.checkpoint,
                resume=wanted.resume,
                callback=wanted.callback,
                cache=wanted.feature_cache,
            )
    with clock("affinity"):
        W = coefficient_affinity(training.coefficients, n_clusters, **dataclasses.asdict(label_config.graph))
    with clock("labels"):
        spectral = spectral_labels(
            W,
            n_clusters,
            n_eigenvectors=label_config.n_eigenvectors,
            assign_labels=label_config.assign_labels,
            seed=wanted.seed,
        )
        generator = generator_for(wanted.seed, Purpose.CLASSIFIER)
        predictor = Predictor.learn(data, config, training, spectral.labels, generator)
        labels = predictor.predict(data.X) if method.labels_by_classifier else spectral.labels
        if feature_map is not None:
            predictor = predictor.with_features(feature_map)
    return FitResult(
        labels, W, choice, training, config, choice.features, label_config, clock.seconds, spectral, predictor, data
    )


class _Clock:
    """Wall time of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _named_method(method: str | Method) -> Method | None:
    """Return the method that was named, None for "auto"."""
    if isinstance(method, Method):
        return method
    if method == AUTO:
        return None
    one_of("cluster", "method", method, (AUTO, *METHODS))
    return METHODS[method]()


def _check(
    owner: str,
    n_samples: int,
    n_clusters: int,
    training: dict[str, Any],
    affinity: str | None,
    assign_labels: str | None,
) -> None:
    """Raise TypeError or ValueError for a setting that no data and no method could have."""
    integer(owner, "n_clusters", n_clusters, least=1)
    for name in ("batch_size", "epochs", "pretrain_steps"):
        if name in training:
            integer(owner, name, training[name], least=1)
    if "lr" in training:
        number(owner, "lr", training["lr"], above=0)
    if n_clusters > n_samples:
        raise ValueError(
            f"{owner}: n_clusters: expected at most the number of samples n_samples={n_samples}, got {n_clusters}"
        )
    if affinity is not None:
        one_of(owner, "affinity", affinity, words(Affinity))
    if assign_labels is not None:
        one_of(owner, "assign_labels", assign_labels, words(AssignLabels))


def _refuse_options(owner: str, method: Method | None, given: dict[str, Any]) -> None:
    """Raise ValueError for an option of training that the method does not have, naming those that do."""
    for name, value in given.items():
        if method is not None and name in method.training_options:
            continue
        if method is None:
            why = "'auto' takes a closed form, which trains nothing"
        elif method.training_options:
            why = f"{method.name} has no such thing"
        else:
            why = "a closed form trains nothing"
        having = ", ".join(other for other, kind in METHODS.items() if name in kind.training_options)
        raise ValueError(f"{owner}: {name}: expected none, for {why}, got {value!r}; methods that have it: {having}")


def _usable_device(device: str | None, owner: str) -> str:
    """Return the device asked for, or CUDA where there is one."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"{owner}: device: expected 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{owner}: device: got {device!r}, but PyTorch {torch.__version__} sees no CUDA device; use 'cpu'"
        )
    return device


def _feature_map(data: Dataset, choice: Choice, device: str) -> FeatureMap | None:
    """Return the map that is to be fitted, checked; None where the method gets the samples as they are."""
    takes_rows = isinstance(choice.method, ClosedFormMethod) and len(data.sample_shape) != 1
    if choice.features.changes_nothing and not takes_rows:
        return None
    feature_map = FeatureMap(choice.features, data.sample_shape, data.pixel_range).to(device)
    feature_map.check_count(data.n_samples)
    memory.check_features(data.n_samples, feature_map)
    return feature_map


def _train_config(wanted: _Wanted, choice: Choice, sample_shape: tuple[int, ...]) -> TrainConfig:
    """Return every setting of the method's work: what was given, else the preset's, else the method's."""
    method, given, n_samples = choice.method, wanted.training, wanted.data.n_samples
    preset = given.get("preset")
    if preset is None and choice.features.changes_nothing and "preset" in method.training_options:
        preset = wanted.data.preset
    chosen = method.adapt_preset(choose_preset(preset, sample_shape, n_samples, wanted.n_clusters))
    if chosen.channels and not choice.features.changes_nothing:
        raise ValueError(
            f"{method.title}: preset: {chosen.name!r} has a network for images, but features "
            f"{choice.features.kind!r} are rows; leave one of the two out"
        )
    chosen = replace(chosen, lr=given.get("lr", chosen.lr), graph=replace(chosen.graph, **wanted.graph))
    for name in _POST_ALONE:
        if name in wanted.graph and chosen.graph.affinity != "post":
            raise ValueError(
                f"{method.title}: {name}: expected none with affinity {chosen.graph.affinity!r}, which has no such "
                f"setting, got {wanted.graph[name]!r}; affinity 'post' has it"
            )
    pretraining = PretrainConfig()
    if (most := given.get("pretrain_steps")) is not None:
        least, trial = min(pretraining.min_steps, most), min(pretraining.trial_steps, most)
        pretraining = replace(pretraining, max_steps=int(most), min_steps=int(least), trial_steps=int(trial))
    batch_size, epochs = given.get("batch_size", method.batch_size), given.get("epochs")
    return TrainConfig(
        preset=chosen,
        n_clusters=wanted.n_clusters,
        method=method,
        batch_size=None if batch_size is None else int(batch_size),
        epochs=None if epochs is None else int(epochs),
        seed=wanted.seed,
        device=wanted.device,
        pretraining=pretraining,
    )
