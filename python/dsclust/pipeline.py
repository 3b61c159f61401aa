"""A data set and a method in, labels and a model out: the path that the command line and the estimators share.

Owns settings, the memory check, and the order of features (`dsclust.features`), training (`dsclust.training.trainer`),
affinity and labels (`dsclust.graph.clustering`), and what labels new samples (`dsclust.predictor`). Composes only; has
no numerics of its own.
"""

from __future__ import annotations

import dataclasses
import numbers
import os
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dsclust.data import Dataset
from dsclust.features.map import FeatureConfig, FeatureMap, as_config, fitted
from dsclust.graph.affinity import AFFINITIES, Graph, coefficient_affinity, scipy_csr
from dsclust.graph.clustering import ASSIGN_LABELS, SpectralLabels, spectral_labels
from dsclust.graph.subspaces import subspace_bases
from dsclust.methods import METHODS, BDSCMethod, ClosedFormMethod, Method
from dsclust.parts.networks import Autoencoder
from dsclust.predictor import Predictor
from dsclust.presets import Affinity, AssignLabels, Preset, automatic, get_preset
from dsclust.training.trainer import (
    CLASSIFIER,
    Callback,
    PretrainConfig,
    TrainConfig,
    TrainResult,
    fit,
    generator_for,
)

Array = npt.NDArray[Any]

# Words of N² beside C at the worst moment of the way from C to labels, measured.
_LABEL_WORDS = {"post": 7, "plain": 6, "sparse": 1, "neighbors": 4}
_POST_FLOAT64_LIMIT = 4096
# Bytes an entry of a sparse C at the worst moment of the same way, measured.
_ENTRY_BYTES = {"plain": 110, "sparse": 110, "neighbors": 40}
# Up to this size the spectral step may make a sparse graph dense.
_DENSE_LIMIT = 8192


@dataclass(frozen=True)
class LabelConfig:
    """From C to labels: :func:`dsclust.graph.affinity.coefficient_affinity`, then
    :func:`dsclust.graph.clustering.spectral_clustering`.
    """

    affinity: Affinity
    threshold: float
    subspace_dim: int
    power: float
    unit_diagonal: bool
    n_eigenvectors: int | None
    assign_labels: AssignLabels


@dataclass(frozen=True)
class FitResult:
    """What a run found and every setting it ran with.

    labels: (N,) int64. affinity: (N, N), dense or CSR. training: C, the network and the history. feature_config: what
    the method was given instead of the samples. seconds: wall time of features, of training, of C to the graph and
    of that to labels.
    spectral: labels of spectral clustering, and what can be said of them without the true ones; `labels` are the same,
    or for some methods the predictor's. predictor: what labels new samples. data: what the method was given.
    """

    labels: npt.NDArray[np.int64]
    affinity: Graph
    training: TrainResult
    train_config: TrainConfig
    feature_config: FeatureConfig
    label_config: LabelConfig
    seconds: dict[str, float]
    spectral: SpectralLabels
    predictor: Predictor
    data: Dataset

    @property
    def coefficients(self) -> Graph:
        """C (N, N), an array or `scipy.sparse.csr_array`; row i holds the coefficients of sample i."""
        C = self.training.coefficients
        return scipy_csr(C) if C.layout is torch.sparse_csr else C.numpy()

    @property
    def subspace_bases(self) -> list[Array]:
        """Of each cluster (d, h), see :func:`dsclust.graph.subspaces.subspace_bases`."""
        config = self.train_config
        return subspace_bases(self.training.latent.numpy(), self.labels, config.n_clusters, config.preset.subspace_dim)


def required_bytes(
    n_samples: int,
    batch_size: int | None,
    *,
    method: Method | None = None,
    affinity: str = "post",
    itemsize: int = 4,
) -> int:
    """Bytes that the arrays of coefficients take at the worst moment of a run.

    Training BDSC, the default, holds C and Adam's two moments, in float32 ``12 N²`` bytes, and the batch's rows of C,
    ``4 B N``, where it is not all samples; SSCN holds none. The way to labels holds C and about 7 ("post"), 6
    ("plain"), 4 ("neighbors") or 1 ("sparse") matrices of its size, in float64 up to 4096 samples and in float32
    above: ``32 N²``, ``28 N²``, ``20 N²`` or ``8 N²``. With a sparse C of k entries a row, as SENet's, it holds
    about 40 k N ("neighbors") or 110 k N bytes ("plain", "sparse") and no N² ones above 8192 samples.
    """
    n, method = n_samples, method or BDSCMethod()
    rows = n if batch_size is None else min(batch_size, n)
    training = itemsize * method.training_words(n, rows)
    entries = method.row_entries(n)
    if entries is not None and affinity != "post" and n > _DENSE_LIMIT:
        return max(training, _ENTRY_BYTES[affinity] * entries * n)
    word = 8 if n <= _POST_FLOAT64_LIMIT else 4
    return max(training, (itemsize + _LABEL_WORDS[affinity] * word) * n * n)


def _available_bytes() -> int | None:
    """Memory that a new array could have, or None where the system does not tell."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None
    try:  # a container may allow less than the machine has
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as u:
            available = min(available, int(limit.read()) - int(u.read()))
    except (OSError, ValueError):
        pass
    return available


def _needed_bytes(n: int, method: Method, config: TrainConfig, affinity: str) -> dict[str, int]:
    """Bytes of the arrays of size N², where they lie: on the host, and on the device if it is another."""
    itemsize = 4 if config.dtype == "float32" else 8
    needs = {"host": required_bytes(n, config.batch_size, method=method, affinity=affinity, itemsize=itemsize)}
    if torch.device(config.device).type == "cuda":
        rows = n if config.batch_size is None else min(config.batch_size, n)
        entries = method.row_entries(n)
        coefficients = itemsize * n * n if entries is None else (itemsize + 8) * n * entries
        needs[config.device] = itemsize * method.training_words(n, rows) + coefficients
    return needs


def _check_feature_memory(n: int, features: FeatureMap) -> None:
    needed, available = features.required_bytes(n), _available_bytes()
    if available is not None and needed > available:
        raise MemoryError(
            f"features {features.config.kind!r}: {n} rows of {features.dim} out of {features.width} numbers need about "
            f"{needed / 2**30:.1f} GiB of host memory; {available / 2**30:.1f} GiB are free. Alternatives: a smaller "
            "resize, fewer principal components (pca), or fit fewer samples and label the rest with predict"
        )


def _check_memory(n: int, config: TrainConfig, affinity: str) -> None:
    method = config.method
    entries = method.row_entries(n)
    what = f"{n} x {n} coefficient matrix, its moments and its way to labels"
    if entries is not None:
        what = f"{entries} coefficients of each and their graph"
    for place, needed in _needed_bytes(n, method, config, affinity).items():
        available = _available_bytes() if place == "host" else torch.cuda.mem_get_info(place)[0]
        if available is not None and needed > available:
            raise MemoryError(
                f"{method.title}: {n} samples need about {needed / 2**30:.1f} GiB of {place} memory for the {what}; "
                f"{available / 2**30:.1f} GiB are free. Alternatives: "
                f"{_alternatives(n, config, affinity, place, available)}"
            )


def _alternatives(n: int, config: TrainConfig, affinity: str, place: str, available: int) -> str:
    """What would need less of the memory at a place, or none, in words with numbers."""

    def needed(n: int, method: Method = config.method, affinity: str = affinity) -> int:
        return _needed_bytes(n, method, config, affinity)[place]

    fitting = n
    while needed(fitting) > available:
        fitting = fitting * 99 // 100  # near enough: within one in a hundred
    found = [f"fit up to {fitting} samples and label the rest with predict"] if fitting >= config.n_clusters else []
    others = {"affinity 'plain'": needed(n, affinity="plain")}
    for name, kind in METHODS.items():
        method = kind()
        others[f"method {name}"] = needed(n, method, method.adapted(config.preset).affinity)
    found += [f"{what} ({bytes_ / 2**30:.1f} GiB)" for what, bytes_ in others.items() if bytes_ < needed(n)]
    return "; ".join(found)


def _usable_device(device: str | None, owner: str) -> str:
    """The device asked for, or CUDA where there is one."""
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


def chosen_preset(
    preset: str | Preset | None, sample_shape: tuple[int, ...], n_samples: int, n_clusters: int
) -> Preset:
    """The preset itself or of that name; None for what follows from the shape of the data."""
    if preset is None:
        return automatic(sample_shape, n_samples / n_clusters)
    return preset if isinstance(preset, Preset) else get_preset(preset, n_clusters)


def fit_method(
    data: Dataset,
    n_clusters: int,
    method: Method | None = None,
    *,
    features: str | FeatureConfig | None = None,
    feature_cache: str | os.PathLike[str] | None = None,
    preset: str | Preset | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    pretrain_steps: int | None = None,
    affinity: Affinity | None = None,
    threshold: float | None = None,
    subspace_dim: int | None = None,
    power: float | None = None,
    unit_diagonal: bool | None = None,
    n_eigenvectors: int | None = None,
    assign_labels: AssignLabels | None = None,
    seed: int = 0,
    device: str | None = None,
    autoencoder: Autoencoder | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callback: Callback | None = None,
) -> FitResult:
    """Trains a method on a data set and clusters it: what `dsclust fit` and the estimators run.

    method: by default `BDSCMethod()`. features: what it gets instead of the samples, a `FeatureConfig` or the name of
    one's kind; feature_cache: `cache` of :func:`dsclust.features.fit_features`, none by default. The other settings are
    those of :class:`BDSC`; None takes the preset's or the method's. `autoencoder`, `checkpoint`, `resume`, `callback`
    and what they raise: :func:`dsclust.training.trainer.fit`. `data.labels` are never read.

    Raises ValueError or TypeError naming the setting, MissingExtraError, and MemoryError where features or the N²
    arrays cannot fit, before any work is done.
    """
    method = method or BDSCMethod()
    owner = method.title
    n = data.n_samples
    for name, value, least in (
        ("n_clusters", n_clusters, 1),
        ("batch_size", batch_size, 1),
        ("epochs", epochs, 1),
        ("pretrain_steps", pretrain_steps, 1),
    ):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{owner}: {name}: expected an integer, got {value!r}")
        if value < least:
            raise ValueError(f"{owner}: {name}: expected at least {least}, got {value}")
    closed_form = isinstance(method, ClosedFormMethod)
    for name, given in (
        ("preset", preset), ("batch_size", batch_size), ("epochs", epochs), ("lr", lr),
        ("pretrain_steps", pretrain_steps), ("autoencoder", autoencoder),
    ):  # fmt: skip
        if closed_form and given is not None:
            raise ValueError(f"{owner}: {name}: expected None, for a closed form trains nothing, got {given!r}")
    if n_clusters > n:
        raise ValueError(f"{owner}: n_clusters: expected at most the number of samples n_samples={n}, got {n_clusters}")
    if lr is not None and not (isinstance(lr, numbers.Real) and 0 < lr < float("inf")):
        raise ValueError(f"{owner}: lr: expected a number > 0, got {lr!r}")
    if affinity is not None and affinity not in AFFINITIES:
        raise ValueError(f"{owner}: affinity: expected one of {', '.join(AFFINITIES)}, got {affinity!r}")
    assign_labels = method.assign_labels if assign_labels is None else assign_labels
    if assign_labels not in ASSIGN_LABELS:
        raise ValueError(f"{owner}: assign_labels: expected one of {', '.join(ASSIGN_LABELS)}, got {assign_labels!r}")

    device = _usable_device(device, owner)
    sample_shape = tuple(data.X.shape[1:])
    config = as_config(features)
    feature_map = None
    if not config.changes_nothing or (closed_form and len(sample_shape) != 1):  # a closed form takes rows
        feature_map = FeatureMap(config, sample_shape, data.pixel_range).to(device)
        feature_map.check_count(n)
        sample_shape = (feature_map.dim,)
        _check_feature_memory(n, feature_map)
    chosen = method.adapted(chosen_preset(preset, sample_shape, n, n_clusters))
    if feature_map is not None and chosen.channels:
        raise ValueError(
            f"{owner}: preset: {chosen.name!r} has a network for images, but features {config.kind!r} are rows; leave "
            "one of the two out"
        )
    overrides: dict[str, Any] = {
        "lr": lr,
        "affinity": affinity,
        "threshold": threshold,
        "subspace_dim": subspace_dim,
        "power": power,
        "unit_diagonal": unit_diagonal,
    }
    chosen = replace(chosen, **{k: v for k, v in overrides.items() if v is not None})
    pretraining = PretrainConfig()
    if pretrain_steps is not None:
        pretraining = replace(
            pretraining,
            max_steps=pretrain_steps,
            min_steps=min(pretraining.min_steps, pretrain_steps),
            trial_steps=min(pretraining.trial_steps, pretrain_steps),
        )
    train_config = TrainConfig(
        preset=chosen,
        n_clusters=int(n_clusters),
        method=method,
        batch_size=method.batch_size if batch_size is None else int(batch_size),
        shuffle=method.shuffles,
        epochs=None if epochs is None else int(epochs),
        seed=seed,
        device=device,
        pretraining=pretraining,
    )
    label_config = LabelConfig(
        affinity=chosen.affinity,
        threshold=chosen.threshold,
        subspace_dim=chosen.subspace_dim,
        power=chosen.power,
        unit_diagonal=chosen.unit_diagonal,
        n_eigenvectors=n_eigenvectors,
        assign_labels=assign_labels or method.assign_labels,
    )
    _check_memory(n, train_config, chosen.affinity)

    start = time.perf_counter()
    samples = data
    if feature_map is not None:
        data = fitted(feature_map, samples, cache=feature_cache, callback=callback)
    embedded = time.perf_counter()
    training = fit(
        data,
        train_config,
        autoencoder=autoencoder,
        checkpoint=checkpoint,
        resume=resume,
        callback=callback,
        cache=feature_cache,
    )
    trained = time.perf_counter()
    graph = dataclasses.asdict(label_config)
    labeling = {name: graph.pop(name) for name in ("n_eigenvectors", "assign_labels")}
    W = coefficient_affinity(training.coefficients, int(n_clusters), **graph)
    joined = time.perf_counter()
    spectral = spectral_labels(W, int(n_clusters), seed=seed, **labeling)
    predictor = Predictor.fitted(data, train_config, training, spectral.labels, generator_for(seed, CLASSIFIER))
    labels = predictor.predict(data.X) if method.labels_by_classifier else spectral.labels
    if feature_map is not None:
        predictor = predictor.behind(feature_map)
    seconds = {
        "features": embedded - start,
        "training": trained - embedded,
        "affinity": joined - trained,
        "labels": time.perf_counter() - joined,
    }
    return FitResult(labels, W, training, train_config, config, label_config, seconds, spectral, predictor, data)
