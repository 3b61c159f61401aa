"""What the estimators share: from an array to a data set, from a result to attributes, labels of new samples."""

from __future__ import annotations

import numbers
from dataclasses import KW_ONLY, dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from dsclust.data import Dataset, load
from dsclust.features import FeatureConfig
from dsclust.features.cache import default_cache
from dsclust.names import Affinity, AssignLabels
from dsclust.parts.method import AutoencoderMethod, Method
from dsclust.pipeline import FitResult, cluster
from dsclust.presets import Preset, get_preset
from dsclust.progress import Callback, Progress
from dsclust.samples import Array

if TYPE_CHECKING:
    from sklearn.utils import Tags
    from typing_extensions import Self


@dataclass(eq=False, repr=False)
class SubspaceClusterer(TransformerMixin, ClusterMixin, BaseEstimator):
    """An estimator is its parameters and the class of its method: fields named as a setting of the method are that
    setting, the others go to :func:`dsclust.pipeline.cluster`. The constructor that a dataclass gets is what
    scikit-learn asks for: every parameter by name, kept as it came.
    """

    method_class: ClassVar[type[Method]]

    n_clusters: int = 8
    _: KW_ONLY
    image_shape: tuple[int, int] | tuple[int, int, int] | None = None
    pixel_range: tuple[float, float] | None = None
    features: str | FeatureConfig | None = None
    affinity: Affinity | None = None
    subspace_dim: int | None = None
    n_eigenvectors: int | None = None
    assign_labels: AssignLabels | None = None
    random_state: int | np.random.RandomState | None = None
    device: str | None = None
    verbose: int = 0

    def _method_settings(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self.method_class)}

    def _method(self) -> Method | str:
        return self.method_class(**self._method_settings())

    def _settings(self) -> dict[str, Any]:
        """Return the parameters that `cluster` takes by their own names."""
        own = {"image_shape", "pixel_range", "random_state", "verbose", *self._method_settings()}
        return {name: value for name, value in self.get_params(deep=False).items() if name not in own}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

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
        image_shape = self._image_shape() if samples.ndim == 2 else self.image_shape
        return load(samples, image_shape=image_shape, pixel_range=self.pixel_range)

    def _image_shape(self) -> tuple[int, int] | tuple[int, int, int] | None:
        """Return the shape that rows of features are read as, if they are images."""
        return self.image_shape

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Cluster X: (n, features) or images (n, h, w), (n, c, h, w), (n, h, w, c). y is ignored.

        Raises ValueError or TypeError naming the setting or what is wrong with X, MemoryError where
        the N² arrays cannot fit, `dsclust.training.interrupt.DivergedError` where the loss stops being finite.
        """
        data = self._dataset(X, reset=True)
        if isinstance(self.random_state, numbers.Integral):
            seed = int(self.random_state)
        else:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        result = cluster(
            data,
            method=self._method(),
            feature_cache=default_cache(),
            seed=seed,
            callback=_print_progress(type(self).__name__, self.verbose),
            **self._settings(),
        )
        self._keep(result)
        return self

    def _keep(self, result: FitResult) -> None:
        self.labels_ = result.labels
        self.affinity_matrix_ = result.affinity
        self.coefficients_ = result.coefficients
        self.subspace_bases_ = result.subspace_bases
        self.predictor_ = result.predictor
        self.stability_ = result.spectral.stability
        self.history_ = result.training.history
        self.n_iter_ = len(result.training.history)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return labels (n,) int64 of new samples, shaped as those of :meth:`fit`: one pass of the encoder, then the
        method's classifier or, where it has none, the vote of their coefficients on the fitted samples.

        Raises ValueError for samples of another shape, NotFittedError before :meth:`fit`.
        """
        check_is_fitted(self)
        return self.predictor_.predict(self._dataset(X, reset=False).X)

    def transform(self, X: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return latent rows (n, h) float32 of samples; raises as :meth:`predict`."""
        check_is_fitted(self)
        return self.predictor_.transform(self._dataset(X, reset=False).X)

    def fit_predict(self, X: npt.ArrayLike, y: object = None) -> npt.NDArray[np.int64]:
        """Cluster X and return `labels_`, (n,) int64; see :meth:`fit`."""
        return self.fit(X).labels_


@dataclass(eq=False, repr=False)
class DeepSubspaceClustering(SubspaceClusterer):
    """An estimator of a method that is trained."""

    _: KW_ONLY
    preset: str | Preset | None = None
    batch_size: int | None = None
    epochs: int | None = None
    lr: float | None = None

    def _image_shape(self) -> tuple[int, int] | tuple[int, int, int] | None:
        if self.image_shape is not None or self.preset is None:
            return self.image_shape
        preset = self.preset if isinstance(self.preset, Preset) else get_preset(self.preset, self.n_clusters)
        return preset.image_shape


@dataclass(eq=False, repr=False)
class AutoencoderClustering(DeepSubspaceClustering):
    """An estimator of an `AutoencoderMethod`, whose labels may come by DSC-Net's post-processing."""

    _: KW_ONLY
    pretrain_steps: int | None = None
    threshold: float | None = None
    power: float | None = None
    unit_diagonal: bool | None = None


def _print_progress(owner: str, verbose: int) -> Callback | None:
    if not verbose:
        return None

    shown: dict[str, int] = {}

    def show(progress: Progress) -> None:
        if progress.note:
            print(f"[{owner}] {progress.note}")
            return
        part = 10 * int(verbose) * progress.epoch // progress.epochs
        if part != shown.get(progress.phase, 0):
            shown[progress.phase] = part
            figures = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
            print(f"[{owner}] {progress.phase} {progress.epoch}/{progress.epochs}  {figures}")

    return show


def estimator_for(method: type[Method]) -> type[SubspaceClusterer]:
    """Return an estimator of any method: its settings, and the options of training that it has, are parameters.

    The methods of this package have one of their own, with documentation; this is for those registered elsewhere.
    """
    if issubclass(method, AutoencoderMethod):
        base: type[SubspaceClusterer] = AutoencoderClustering
    else:
        base = DeepSubspaceClustering if method.training_options else SubspaceClusterer
    own: list[Any] = [("_", KW_ONLY), *((f.name, f.type, field(default=f.default)) for f in fields(method))]
    namespace = {"method_class": method, "__doc__": f"{method.title}: {method.summary}."}
    made: type[SubspaceClusterer] = make_dataclass(
        f"{method.__name__.removesuffix('Method')}Clustering",
        own,
        bases=(base,),
        namespace=namespace,
        eq=False,
        repr=False,
    )
    return made
