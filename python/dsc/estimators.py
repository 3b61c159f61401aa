"""The deep methods as one function and as scikit-learn estimators.

Owns the path that the command line and the estimators share: settings, memory check, training
(`dsc.trainer`), affinity and labels (`dsc.clustering`), and what labels new samples (`dsc.predictor`).
Composes only; has no numerics of its own.
"""

from __future__ import annotations

import dataclasses
import numbers
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from dsc.clustering import AFFINITIES, ASSIGN_LABELS, cluster_coefficients
from dsc.data import Dataset, load
from dsc.methods import BDSCMethod, Method, SSCNMethod
from dsc.methods.bdsc import Gradient
from dsc.predictor import Predictor
from dsc.presets import Preset, automatic, get_preset
from dsc.trainer import (
    CLASSIFIER,
    Callback,
    PretrainConfig,
    Progress,
    TrainConfig,
    TrainResult,
    fit,
    generator_for,
)

if TYPE_CHECKING:
    from sklearn.utils import Tags
    from typing_extensions import Self

Array = npt.NDArray[Any]

# Words of N² beside C at the worst moment of the way from C to labels, measured.
_LABEL_WORDS = {"post": 7, "plain": 6}
_POST_FLOAT64_LIMIT = 4096


@dataclass(frozen=True)
class LabelConfig:
    """From C to labels; see :func:`dsc.clustering.cluster_coefficients` for each setting."""

    affinity: Literal["post", "plain"]
    threshold: float
    subspace_dim: int
    power: float
    unit_diagonal: bool
    n_eigenvectors: int | None
    assign_labels: Literal["kmeans", "discretize", "cluster_qr"]


@dataclass(frozen=True)
class FitResult:
    """What a run found and every setting it ran with.

    labels: (N,) int64. affinity: (N, N). training: C, the network and the history. seconds: wall time of training and
    of C to labels. predictor: what labels new samples, None for a transductive method; `labels` are then its own, and
    `spectral_labels`, those of spectral clustering, what it learnt from.
    """

    labels: npt.NDArray[np.int64]
    affinity: Array
    training: TrainResult
    train_config: TrainConfig
    label_config: LabelConfig
    seconds: dict[str, float]
    spectral_labels: npt.NDArray[np.int64]
    predictor: Predictor | None

    @property
    def coefficients(self) -> Array:
        """C (N, N); row i holds the coefficients of sample i."""
        array: Array = self.training.coefficients.numpy()
        return array


def required_bytes(
    n_samples: int,
    batch_size: int | None,
    *,
    method: Method | None = None,
    affinity: str = "post",
    itemsize: int = 4,
) -> int:
    """Bytes that the arrays of size N² take at the worst moment of a run.

    Training BDSC, the default, holds C, Adam's two moments and the gradient of the batch's rows of C, in float32
    ``12 N² + 4 B N`` bytes, so ``16 N²`` in one batch; SSCN holds none. The way to labels holds C and about 7 ("post")
    or 6 ("plain") matrices of its size, in float64 up to 4096 samples and in float32 above: ``32 N²`` or ``28 N²``.
    """
    n = n_samples
    rows = n if batch_size is None else min(batch_size, n)
    training = itemsize * (method or BDSCMethod()).training_words(n, rows)
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


def _check_memory(n: int, config: TrainConfig, affinity: str) -> None:
    itemsize = 4 if config.dtype == "float32" else 8
    method, rows = config.method, config.problem(n).rows_per_batch
    needs = [("host", required_bytes(n, rows, method=method, affinity=affinity, itemsize=itemsize))]
    free = {"host": _available_bytes()}
    if torch.device(config.device).type == "cuda":
        needs.append((config.device, itemsize * (method.training_words(n, rows) + n * n)))
        free[config.device] = torch.cuda.mem_get_info(config.device)[0]
    for place, needed in needs:
        available = free[place]
        if available is not None and needed > available:
            raise MemoryError(
                f"{method.name.upper()}: {n} samples need about {needed / 2**30:.1f} GiB of {place} memory for the "
                f"{n} x {n} coefficient matrix, its optimiser and its decomposition; "
                f"{available / 2**30:.1f} GiB are free. Take fewer samples, or dsc.baselines.ridge_labels, "
                "closed-form self-expression in O(N) memory"
            )


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


def fit_method(
    data: Dataset,
    n_clusters: int,
    method: Method | None = None,
    *,
    preset: str | Preset | None = None,
    batch_size: int | None = None,
    shuffle: bool = True,
    epochs: int | None = None,
    lr: float | None = None,
    pretrain_steps: int | None = None,
    affinity: Literal["post", "plain"] | None = None,
    threshold: float | None = None,
    subspace_dim: int | None = None,
    power: float | None = None,
    unit_diagonal: bool | None = None,
    n_eigenvectors: int | None = None,
    assign_labels: Literal["kmeans", "discretize", "cluster_qr"] = "discretize",
    seed: int = 0,
    device: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callback: Callback | None = None,
) -> FitResult:
    """Trains a method on a data set and clusters it: what `dsc fit` and the estimators run.

    method: by default `BDSCMethod()`. The other settings are those of :class:`BDSC`; None takes the preset's.
    `checkpoint`, `resume`, `callback` and what they raise: :func:`dsc.trainer.fit`. `data.labels` are never read.

    Raises ValueError or TypeError naming the setting, and MemoryError where the N² arrays cannot
    fit, before any work is done.
    """
    method = method or BDSCMethod()
    owner = method.name.upper()
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
    if n_clusters > n:
        raise ValueError(f"{owner}: n_clusters: expected at most the number of samples n_samples={n}, got {n_clusters}")
    if lr is not None and not (isinstance(lr, numbers.Real) and 0 < lr < float("inf")):
        raise ValueError(f"{owner}: lr: expected a number > 0, got {lr!r}")
    if affinity is not None and affinity not in AFFINITIES:
        raise ValueError(f"{owner}: affinity: expected one of {', '.join(AFFINITIES)}, got {affinity!r}")
    if assign_labels not in ASSIGN_LABELS:
        raise ValueError(f"{owner}: assign_labels: expected one of {', '.join(ASSIGN_LABELS)}, got {assign_labels!r}")

    if preset is None:
        chosen = automatic(tuple(data.X.shape[1:]), n / n_clusters)
    elif isinstance(preset, Preset):
        chosen = preset
    else:
        chosen = get_preset(preset, n_clusters)
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
        batch_size=None if batch_size is None else int(batch_size),
        shuffle=shuffle,
        epochs=None if epochs is None else int(epochs),
        seed=seed,
        device=_usable_device(device, owner),
        pretraining=pretraining,
    )
    label_config = LabelConfig(
        affinity=chosen.affinity,
        threshold=chosen.threshold,
        subspace_dim=chosen.subspace_dim,
        power=chosen.power,
        unit_diagonal=chosen.unit_diagonal,
        n_eigenvectors=n_eigenvectors,
        assign_labels=assign_labels,
    )
    _check_memory(n, train_config, chosen.affinity)

    start = time.perf_counter()
    training = fit(data, train_config, checkpoint=checkpoint, resume=resume, callback=callback)
    trained = time.perf_counter()
    spectral, W = cluster_coefficients(
        training.coefficients, int(n_clusters), seed=seed, **dataclasses.asdict(label_config)
    )
    labels = spectral
    predictor = Predictor.fitted(data, train_config, training, spectral, generator_for(seed, CLASSIFIER))
    if predictor is not None:
        labels = predictor.predict(data.X)
    seconds = {"training": trained - start, "labels": time.perf_counter() - trained}
    return FitResult(labels, W, training, train_config, label_config, seconds, spectral, predictor)


class _DeepSubspaceClustering(ClusterMixin, BaseEstimator):
    """What the estimators share: from an array to a data set, from a result to attributes."""

    def _method(self) -> Method:
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        """The parameters that `fit_method` takes by their own names."""
        own = {"image_shape", "pixel_range", "random_state", "verbose"}
        return {name: value for name, value in self.get_params(deep=False).items() if name not in own}

    def _dataset(self, X: npt.ArrayLike, reset: bool) -> Dataset:
        rules: dict[str, Any] = {"dtype": [np.float64, np.float32], "allow_nd": True}
        samples: Array
        if reset:
            samples = validate_data(self, X, ensure_min_samples=2, **rules)
            self.n_features_in_ = int(np.prod(samples.shape[1:]))
        else:
            samples = check_array(X, estimator=self, **rules)
            rows = X if samples.ndim == 2 else samples.reshape(len(samples), -1)
            validate_data(self, rows, reset=False, skip_check_array=True)  # as many features, and of the same names
        image_shape = self.image_shape
        if image_shape is None and samples.ndim == 2 and self.preset is not None:
            image_shape = (
                self.preset if isinstance(self.preset, Preset) else get_preset(self.preset, self.n_clusters)
            ).image_shape
        return load(samples, image_shape=image_shape, pixel_range=self.pixel_range)

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Cluster X: (n, features) or images (n, h, w), (n, c, h, w), (n, h, w, c). y is ignored.

        Raises ValueError or TypeError naming the setting or what is wrong with X, MemoryError where
        the N² arrays cannot fit, `dsc.trainer.DivergedError` where the loss stops being finite.
        """
        data = self._dataset(X, reset=True)
        if isinstance(self.random_state, numbers.Integral):
            seed = int(self.random_state)
        else:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        show = _print_progress(type(self).__name__, self.verbose)
        result = fit_method(data, method=self._method(), seed=seed, callback=show, **self._settings())
        self._keep(result)
        return self

    def _keep(self, result: FitResult) -> None:
        self.labels_ = result.labels
        self.affinity_matrix_ = result.affinity
        self.coefficients_ = result.coefficients
        self.history_ = result.training.history
        self.n_iter_ = len(result.training.history)

    def fit_predict(self, X: npt.ArrayLike, y: object = None) -> npt.NDArray[np.int64]:
        """Cluster X and return `labels_`, (n,) int64; see :meth:`fit`."""
        return self.fit(X).labels_


class BDSC(_DeepSubspaceClustering):
    """Deep subspace clustering by mini-batch against a memory bank.

    An autoencoder turns each sample into a latent row, each latent row is written as a linear
    combination of the others, ``Z ~ C Z``, and spectral clustering of the graph of ``|C|`` gives
    the clusters. Use it for data near a union of low-dimensional subspaces (faces under changing
    light, objects on a turntable, handwriting) with up to about 10,000 samples; for round blobs
    k-means is right and cheaper. Compare with :func:`dsc.baselines.run_baselines` on your data.

    Parameters
    ----------
    n_clusters : int, default=8
    image_shape : (h, w) or (c, h, w), optional
        Read rows of X as images of this shape and use a convolutional autoencoder; without it rows
        are feature vectors and the autoencoder is fully connected. An X of three or four
        dimensions, (n, h, w) or (n, c, h, w), is always taken for images.
    pixel_range : (low, high), optional
        Scale of X, needed by presets of data sets; told from the values where they leave no doubt.
    preset : {"orl", "coil20", "coil100", "eyaleb", "digits"} or Preset, optional
        Network, loss weights, epochs and post-processing of a published data set. By default they
        follow from the shape of a sample.
    batch_size : int, optional
        Samples a step; default all. One batch with gradient "splice" is DSC-Net.
    gradient : {"splice", "detach", "detach+ae"}, default="splice"
        What of the bank carries gradient: the batch's own rows; nothing; nothing, with a plain
        autoencoder loss added.
    bank : {"index", "fifo"}, default="index"
        How latent rows enter the bank. "fifo" visits the samples in a fixed order.
    epochs : int, optional
        Passes over the data after pre-training; default the preset's.
    lr : float, optional
        Adam's at full batch; with k batches the networks get lr / k. Default the preset's, 1e-3.
    pretrain_steps : int, optional
        Most steps of autoencoder pre-training, which stops earlier once its error stops falling.
    zero_diagonal : bool, default=False
        Keep a sample out of its own combination.
    affinity : {"post", "plain"}, optional
        DSC-Net's post-processing, or ``(|C| + |C|.T)/2`` as it is; default the preset's. Without a preset images take
        the first and feature vectors the second.
    threshold, subspace_dim, power, unit_diagonal : optional
        Knobs of "post", see :func:`dsc.clustering.post_affinity`; default the preset's.
    n_eigenvectors : int, optional
        Eigenvectors of the spectral step; default n_clusters (others need assign_labels="kmeans").
    assign_labels : {"discretize", "kmeans", "cluster_qr"}, default="discretize"
    random_state : int, RandomState or None, default=None
        Seeds everything; an int makes runs repeat bit by bit on one machine and thread count.
    device : str, optional
        Where to train: "cpu" or "cuda"; default "cuda" where there is one.
    verbose : int, default=0
        Print about `verbose` times ten lines of progress.

    Attributes
    ----------
    labels_ : (n,) int64 ndarray
    affinity_matrix_ : (n, n) ndarray, symmetric, non-negative
    coefficients_ : (n, n) float32 ndarray
        C; row i holds the coefficients of sample i.
    n_features_in_ : int
    n_iter_ : int
        Epochs run.
    history_ : list of dict
        One entry an epoch: epoch, loss, its weighted terms, drift of the bank.

    Notes
    -----
    Time: each epoch costs O(N² d) for latent dimension d plus two passes of the networks; the
    post-processing O(N³). Memory: 12 N² + 4 B N bytes in training (16 N² in one batch) and about
    32 N² for a moment on the way to labels; a fit that cannot have that raises MemoryError first.
    Transductive: there is no `predict`; C is indexed by sample.

    References
    ----------
    Ji, Zhang, Li, Salzmann, Reid: Deep Subspace Clustering Networks. NIPS 2017.
    arXiv 2507.19917: mini-batch deep subspace clustering with a memory bank (BDSC).

    Examples
    --------
    >>> from dsc import BDSC
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().images[:300]
    >>> labels = BDSC(n_clusters=10, batch_size=100, epochs=5, random_state=0).fit_predict(X)
    >>> labels.shape
    (300,)
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        image_shape: tuple[int, int] | tuple[int, int, int] | None = None,
        pixel_range: tuple[float, float] | None = None,
        preset: str | Preset | None = None,
        batch_size: int | None = None,
        gradient: Gradient = "splice",
        bank: Literal["index", "fifo"] = "index",
        epochs: int | None = None,
        lr: float | None = None,
        pretrain_steps: int | None = None,
        zero_diagonal: bool = False,
        affinity: Literal["post", "plain"] | None = None,
        threshold: float | None = None,
        subspace_dim: int | None = None,
        power: float | None = None,
        unit_diagonal: bool | None = None,
        n_eigenvectors: int | None = None,
        assign_labels: Literal["kmeans", "discretize", "cluster_qr"] = "discretize",
        random_state: int | np.random.RandomState | None = None,
        device: str | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.preset = preset
        self.batch_size = batch_size
        self.gradient = gradient
        self.bank = bank
        self.epochs = epochs
        self.lr = lr
        self.pretrain_steps = pretrain_steps
        self.zero_diagonal = zero_diagonal
        self.affinity = affinity
        self.threshold = threshold
        self.subspace_dim = subspace_dim
        self.power = power
        self.unit_diagonal = unit_diagonal
        self.n_eigenvectors = n_eigenvectors
        self.assign_labels = assign_labels
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _method(self) -> Method:
        return BDSCMethod(self.gradient, self.bank, self.zero_diagonal)

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        for own in ("gradient", "bank", "zero_diagonal"):
            del settings[own]
        return {**settings, "shuffle": self.bank == "index"}  # FIFO keeps the columns of C in place in a fixed order


class SSCN(TransformerMixin, _DeepSubspaceClustering):
    """Subspace clustering by a learnt metric, in mini-batches; labels new samples.

    An autoencoder and a linear map give each sample coordinates h, and two samples express each
    other by ``h_i . h_j``, so there is no N x N parameter: the model is small and the same for any
    N. Spectral clustering of the samples' Gram matrix gives labels, from which a classifier of K
    rotated coordinate subspaces learns to label any sample. Use it where new samples must be
    labelled, and from some thousand samples on, with at least about ten in a batch for each of the
    n_clusters * subspace_dim coordinates; :class:`BDSC` has a coefficient for every pair and is
    stronger on few samples.

    Parameters
    ----------
    n_clusters : int, default=8
    batch_size : int, default=1000
        Samples a step; they express one another within the batch.
    subspace_dim : int, optional
        Dimension of a subspace, of the model as of the post-processing; default the preset's.
    epochs : int, optional
        Passes over the data after pre-training; default the preset's, or as many as make 300 steps.
    image_shape, pixel_range, preset, lr, pretrain_steps : optional
    affinity, threshold, power, unit_diagonal, n_eigenvectors, assign_labels : optional
    random_state, device, verbose
        As in :class:`BDSC`. The preset with the published settings is "mnist".

    Attributes
    ----------
    labels_ : (n,) int64 ndarray
        The classifier's, so that ``labels_`` is ``predict`` of the fitted samples.
    spectral_labels_ : (n,) int64 ndarray
        Those of spectral clustering, what the classifier learnt from.
    predictor_ : dsc.predictor.Predictor
        What labels new samples; ``predictor_.save(path)`` and ``Predictor.load(path)`` keep it.
    affinity_matrix_, coefficients_, n_features_in_, n_iter_, history_
        As in :class:`BDSC`; coefficients_ is the Gram matrix of the coordinates.

    Notes
    -----
    Time: an epoch is two passes of the networks and O(N h K d); labels of the fitted samples cost
    O(N³) as in :class:`BDSC`, those of new ones one pass of the encoder. Memory: independent of N
    in training and prediction, about 32 N² bytes for a moment on the way to labels. Deterministic
    on a CPU for a given number of threads.

    References
    ----------
    Busch, Faerman, Schubert, Seidl: Learning self-expression metrics for scalable and inductive
    subspace clustering. NeurIPS workshop 2020.

    Examples
    --------
    >>> from dsc import SSCN
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().images
    >>> model = SSCN(n_clusters=10, epochs=2, pretrain_steps=20, random_state=0).fit(X[:300])
    >>> model.predict(X[300:]).shape
    (1497,)
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        image_shape: tuple[int, int] | tuple[int, int, int] | None = None,
        pixel_range: tuple[float, float] | None = None,
        preset: str | Preset | None = None,
        batch_size: int | None = 1000,
        epochs: int | None = None,
        lr: float | None = None,
        pretrain_steps: int | None = None,
        affinity: Literal["post", "plain"] | None = None,
        threshold: float | None = None,
        subspace_dim: int | None = None,
        power: float | None = None,
        unit_diagonal: bool | None = None,
        n_eigenvectors: int | None = None,
        assign_labels: Literal["kmeans", "discretize", "cluster_qr"] = "discretize",
        random_state: int | np.random.RandomState | None = None,
        device: str | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.preset = preset
        self.batch_size = batch_size
        self.epochs = epochs
        self.lr = lr
        self.pretrain_steps = pretrain_steps
        self.affinity = affinity
        self.threshold = threshold
        self.subspace_dim = subspace_dim
        self.power = power
        self.unit_diagonal = unit_diagonal
        self.n_eigenvectors = n_eigenvectors
        self.assign_labels = assign_labels
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _method(self) -> Method:
        return SSCNMethod()

    def _keep(self, result: FitResult) -> None:
        super()._keep(result)
        assert result.predictor is not None
        self.predictor_ = result.predictor
        self.spectral_labels_ = result.spectral_labels

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Labels (n,) int64 of new samples, shaped as those of :meth:`fit`. Costs one pass of the encoder.

        Raises ValueError for samples of another shape, NotFittedError before :meth:`fit`.
        """
        check_is_fitted(self)
        return self.predictor_.predict(self._dataset(X, reset=False).X)

    def transform(self, X: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Latent rows (n, h) float32 of samples; raises as :meth:`predict`."""
        check_is_fitted(self)
        return self.predictor_.transform(self._dataset(X, reset=False).X)


def _print_progress(owner: str, verbose: int) -> Callback | None:
    if not verbose:
        return None

    def show(progress: Progress) -> None:
        every = max(1, progress.epochs // (10 * int(verbose)))
        if progress.epoch % every == 0 or progress.epoch == progress.epochs:
            figures = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
            print(f"[{owner}] {progress.phase} {progress.epoch}/{progress.epochs}  {figures}")

    return show
