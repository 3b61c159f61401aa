"""The estimator for whoever has no settings in mind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dsclust.estimators.base import SubspaceClusterer
from dsclust.names import AUTO
from dsclust.pipeline import FitResult


@dataclass(eq=False, repr=False)
class AutoSubspaceClustering(SubspaceClusterer):
    """A closed form, on the representation of the samples that keeps clusters best apart: what `dsclust fit` runs.

    For images, the pixels, their wavelet scattering and the rows of a pre-trained network, as far as the extras
    [scattering] and [efficientnet] are installed, are compared by the normalized cut of the same kind of graph on each;
    feature vectors stay as they are. No label is looked at. The best goes to ridge self-expression on all pairs.

    Parameters
    ----------
    n_clusters : int, default=8
    features : str or FeatureConfig, optional
        Use this representation instead of comparing.
    affinity, subspace_dim, n_eigenvectors, assign_labels : optional
    image_shape, pixel_range, random_state, device, verbose
        As in :class:`RidgeSubspaceClustering`. A network's features need `pixel_range`, where it cannot be told.

    Attributes
    ----------
    choice_ : dsclust.auto.Choice
        Method and features, and the normalized cut of each representation.
    labels_, affinity_matrix_, coefficients_, subspace_bases_, predictor_, stability_, n_features_in_
        As in :class:`RidgeSubspaceClustering`.

    Notes
    -----
    Cost: that of :class:`RidgeSubspaceClustering`, and the features: about 3 ms an image of 32 x 32 for scattering and
    25 to 75 ms for the network on one core. They are kept in a cache, see :func:`dsclust.features.cache.default_cache`.

    Examples
    --------
    >>> from dsclust import AutoSubspaceClustering
    >>> from sklearn.datasets import load_digits
    >>> model = AutoSubspaceClustering(n_clusters=10, random_state=0).fit(load_digits().images)
    >>> model.choice_.method.name
    'ridge'
    """

    def _method_settings(self) -> dict[str, Any]:
        return {}

    def _method(self) -> str:
        return AUTO

    def _keep(self, result: FitResult) -> None:
        super()._keep(result)
        self.choice_ = result.choice
