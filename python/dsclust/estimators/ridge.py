"""The estimator of ridge self-expression."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from dsclust.estimators.base import SubspaceClusterer
from dsclust.methods.ridge import RidgeMethod
from dsclust.parts.method import Method


@dataclass(eq=False, repr=False)
class RidgeSubspaceClustering(SubspaceClusterer):
    """Least-squares regression: each sample by all others, in closed form.

    Samples become centered rows of unit length, Z. The C that minimizes ``||Z - CZ||² + λ ||C||²`` with a zero diagonal
    is one solve; of ``C + Cᵀ`` the few largest entries of each row are the graph. Nothing is trained, and one setting
    serves all data, so begin with it: a deep method has to be ahead of this to be worth its training. On features of
    a pre-trained network or of scattering it mostly is not.

    Parameters
    ----------
    n_clusters : int, default=8
    regularization : float, default=1.0
        λ in units of ``N / n_clusters``, for which a C that averages over each cluster costs what it explains.
    strongest : int, default=20
        Entries of each row of ``C + Cᵀ`` that `coefficients_` keeps; the graph has the 5 largest.
    features : str or FeatureConfig, optional
        What Z is made of: "raw" (default), "scattering", "efficientnet-lite0", "timm:NAME", or a
        :class:`dsclust.FeatureConfig`. See :mod:`dsclust.features`.
    affinity, subspace_dim, n_eigenvectors, assign_labels : optional
        From C to labels, see :func:`dsclust.cluster_coefficients`; the default is the graph of the largest entries,
        then k-means on eigenvectors weighted by their eigenvalues. `subspace_dim` is that of `subspace_bases_`.
    image_shape, pixel_range, random_state, device, verbose
        As in :class:`dsclust.BDSC`. Only k-means is random.

    Attributes
    ----------
    stability_ : float
        How far the labels agree with those from fewer eigenvectors, 1 at most. Low: do not trust them.
    labels_, affinity_matrix_, coefficients_, subspace_bases_, predictor_, n_features_in_
        As in :class:`dsclust.BDSC`; the two matrices are sparse. `history_` is empty and `n_iter_` 0.

    Notes
    -----
    Time O(N² f + N f²) for f features (f <= N; else O(N³)): of 10⁴ samples seconds, of 70,000 by 500 features a minute.
    Memory O(N f). New samples are written by the fitted ones, which vote. Deterministic on a CPU for a given number of
    threads.

    References
    ----------
    Lu, Min, Zhao, Zhu, Huang, Yan: Robust and Efficient Subspace Segmentation via Least Squares Regression. ECCV 2012.

    Examples
    --------
    >>> from dsclust import RidgeSubspaceClustering
    >>> from sklearn.datasets import load_digits
    >>> model = RidgeSubspaceClustering(n_clusters=10, random_state=0).fit(load_digits().images)
    >>> model.labels_.shape
    (1797,)
    """

    method_class: ClassVar[type[Method]] = RidgeMethod

    _: KW_ONLY
    regularization: float = 1.0
    strongest: int = 20
