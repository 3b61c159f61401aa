"""The estimator of sparse subspace clustering."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from dsclust.estimators.base import SubspaceClusterer
from dsclust.methods.ssc import SSCMethod
from dsclust.names import Solver
from dsclust.parts.method import Method


@dataclass(eq=False, repr=False)
class SparseSubspaceClustering(SubspaceClusterer):
    """Each sample by its nearest others, in closed form: sparse subspace clustering at scale.

    Samples become centered rows of unit length. The rows of largest product with a sample are its support, and on that
    alone it is written: by ridge regression, by an elastic net, exactly, or by orthogonal matching pursuit. C has so
    many entries a row and no more. Nothing is trained. :class:`RidgeSubspaceClustering` looks at all pairs and was
    ahead of this wherever both were measured; this one is for more samples than that has time for.

    Parameters
    ----------
    n_clusters : int, default=8
    solver : {"ridge", "elastic_net", "omp"}, default="ridge"
        See :mod:`dsclust.methods.ssc` for each objective.
    support : int, default=50
        Samples that one may be written by.
    regularization : float, default=0.1
        λ of the ridge and of the elastic net.
    l1 : float, default=0.005
        Weight τ of ``||c||₁`` in the elastic net.
    n_nonzero : int, default=5
        Entries of a row at most, of matching pursuit.
    features, affinity, subspace_dim, n_eigenvectors, assign_labels : optional
    image_shape, pixel_range, random_state, device, verbose
        As in :class:`RidgeSubspaceClustering`.

    Attributes
    ----------
    labels_, affinity_matrix_, coefficients_, subspace_bases_, predictor_, n_features_in_
        As in :class:`RidgeSubspaceClustering`.

    Notes
    -----
    Time 2 N² f for the supports of rows with f features, then N s² f; memory O(N (f + s)) with s = `support`. New
    samples are written by their own nearest fitted ones, which vote. Deterministic on a CPU for a given number of
    threads.

    References
    ----------
    Elhamifar, Vidal: Sparse Subspace Clustering: Algorithm, Theory, and Applications. TPAMI 2013.
    You, Li, Robinson, Vidal: Oracle Based Active Set Algorithm for Scalable Elastic Net Subspace Clustering. CVPR 2016.
    You, Robinson, Vidal: Scalable Sparse Subspace Clustering by Orthogonal Matching Pursuit. CVPR 2016.

    Examples
    --------
    >>> from dsclust import SparseSubspaceClustering
    >>> from sklearn.datasets import load_digits
    >>> model = SparseSubspaceClustering(n_clusters=10, random_state=0).fit(load_digits().images)
    >>> model.coefficients_.nnz <= 50 * 1797
    True
    """

    method_class: ClassVar[type[Method]] = SSCMethod

    _: KW_ONLY
    solver: Solver = "ridge"
    support: int = 50
    regularization: float = 0.1
    l1: float = 0.005
    n_nonzero: int = 5
