"""From a coefficient matrix to labels: normalized spectral clustering of its affinity graph (Ng, Jordan & Weiss, 2001).

Owns what turns eigenvectors into labels, and what can be said of labels without knowing the true ones. The graph comes
from `dsclust.graph.affinity`, its eigenvectors from `dsclust.graph.spectral`; this file never touches a network, a data
set or true labels.
"""

from __future__ import annotations

import itertools
import math
import numbers
import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from dsclust.graph.affinity import AffinityMatrix, Coefficients, check_count, coefficient_affinity
from dsclust.graph.assign import cluster_qr, discretize
from dsclust.graph.graph import Graph, as_graph
from dsclust.graph.spectral import SpectralEmbedding, embed
from dsclust.names import AssignLabels, words
from dsclust.samples import Array

ASSIGN_LABELS = words(AssignLabels)
# A component smaller than this share of the mean cluster is dust: it takes no eigenvector and no cluster.
_DUST = 0.05
# The weighted embedding has this many eigenvectors a cluster; stability looks at fewer.
_EIGENVECTORS = 2.0
_FEWER_EIGENVECTORS = (1.0, 1.5)


class FragmentedGraphWarning(UserWarning):
    """The affinity graph has more pieces than clusters, or samples without an edge: some labels are a convention."""


def _unit_rows(X: Array) -> Array:
    norm = np.linalg.norm(X, axis=1, keepdims=True)
    return np.divide(X, norm, out=np.zeros_like(X), where=norm > 0)


def _in_order_of_appearance(labels: Array) -> Array:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[inverse]


class SpectralLabels(NamedTuple):
    """Hold labels and what can be said of them without knowing the true ones.

    ``labels`` (N,) int64. ``normalized_cut``: Σ over clusters of the weight of edges that leave one over that of all
    its edges, 0 (components) to K. It compares representations, with the graph built alike from each, not graphs of
    different settings. ``stability``: mean ARI between labels from the weighted embedding with K, 1.5 K and 2 K
    eigenvectors; 1 where no choice is left. Low: do not trust the labels.
    """

    labels: Array
    normalized_cut: float
    stability: float


def normalized_cut(affinity: Any, labels: Array) -> float:
    """Return the hard normalized cut of a partition, 0 to the number of clusters (Shi & Malik, TPAMI 2000). O(edges).

    affinity: as for :func:`spectral_clustering`. labels: (N,) integers from 0. Clusters without an edge count as 0.
    """
    graph = as_graph(affinity, "normalized_cut")
    labels = np.asarray(labels)
    if labels.shape != (graph.n,):
        raise ValueError(f"normalized_cut: labels must be ({graph.n},), got {labels.shape}")
    n, K = graph.n, int(labels.max()) + 1
    members = scipy.sparse.csr_array((np.ones(n), (np.arange(n), labels)), shape=(n, K))
    volume = members.T @ graph.degrees
    # (W H)ᵀ H: of each cluster only its own column is wanted.
    reached = graph.product(members)
    reached = reached.toarray() if scipy.sparse.issparse(reached) else reached
    within = np.bincount(labels, weights=reached[np.arange(n), labels], minlength=K)
    return float(np.sum(np.divide(volume - within, volume, out=np.zeros(K), where=volume > 0)).clip(0.0))


def spectral_clustering(
    affinity: Any,
    n_clusters: int,
    *,
    n_eigenvectors: int | None = None,
    assign_labels: str = "kmeans",
    n_init: int = 10,
    seed: int = 0,
) -> Array:
    """Return labels (N,) int64 in ``0..K-1``, numbered in order of appearance, of a normalized spectral clustering.

    affinity: (N, N) dense, SciPy sparse or `Graph`; symmetric, non-negative; the diagonal is ignored.
    assign_labels: what turns the unit rows of the embedding into labels: ``"kmeans"`` (`n_init` seeded starts),
    ``"discretize"`` (Yu & Shi 2003, DSC-Net's choice) or ``"cluster_qr"`` (Damle et al. 2019); the last two need
    ``n_eigenvectors == n_clusters``. All K labels are used, except where those two leave one empty.
    n_eigenvectors: how many columns of the embedding, all alike, as the literature has it (Ng, Jordan & Weiss: K). By
    default k-means gets 2K, column j weighted by ``(w_j - w_2K+1)/(1 - w_2K+1)`` with w the eigenvalues, so that no
    count has to be chosen: K of them alone can merge two clusters and split a third. The other two get K.

    A graph in exactly K pieces is answered by its components, no eigenvector involved. Where the graph says nothing a
    convention answers, with a :class:`FragmentedGraphWarning`:

    - more than K components: the K largest are the clusters, the samples of the others join the largest;
    - samples without an edge, and components smaller than a twentieth of N / K, join the largest cluster (they take no
      eigenvector and no cluster), unless fewer than K samples are left: then edgeless ones fill the missing clusters,
      first come first.

    Deterministic for a given `seed` and BLAS. Errors: TypeError or ValueError naming the argument.
    """
    graph = as_graph(affinity, "spectral_clustering")
    return _SpectralStep(graph, n_clusters, n_eigenvectors, assign_labels, n_init, seed).labels()


def spectral_labels(affinity: Any, n_clusters: int, **settings: Any) -> SpectralLabels:
    """Return :func:`spectral_clustering`, with its arguments, as :class:`SpectralLabels`: up to three more k-means, one
    product with W.
    """
    asked = {"n_eigenvectors": None, "assign_labels": "kmeans", "n_init": 10, "seed": 0, **settings}
    step = _SpectralStep(as_graph(affinity, "spectral_clustering"), n_clusters, **asked)
    labels = step.labels()
    return SpectralLabels(labels, normalized_cut(step.graph, labels), step.stability())


class _SpectralStep:
    """One spectral clustering: arguments checked, and the eigenvectors found when they are first needed."""

    def __init__(
        self, graph: Graph, n_clusters: int, n_eigenvectors: int | None, assign_labels: str, n_init: int, seed: int
    ) -> None:
        owner = "spectral_clustering"
        n = graph.n
        check_count(owner, "n_clusters", n_clusters, n)
        if assign_labels not in ASSIGN_LABELS:
            raise ValueError(f"{owner}: assign_labels must be one of {ASSIGN_LABELS}, got {assign_labels!r}")
        if n_eigenvectors is not None:
            check_count(owner, "n_eigenvectors", n_eigenvectors, n)
        if assign_labels != "kmeans" and n_eigenvectors not in (None, n_clusters):
            raise ValueError(
                f"{owner}: assign_labels={assign_labels!r} needs n_eigenvectors == n_clusters = {n_clusters}, got "
                f"{n_eigenvectors}"
            )
        if isinstance(n_init, bool) or not isinstance(n_init, numbers.Integral) or n_init < 1:
            raise ValueError(f"{owner}: n_init must be an integer >= 1, got {n_init!r}")
        self.graph: Graph = graph
        self.K: int = int(n_clusters)
        self.n: int = n
        self.n_eigenvectors: int | None = n_eigenvectors
        self.assign_labels: str = assign_labels
        self.n_init: int = int(n_init)
        self.seed: int = seed
        self.component: Array = graph.components
        size = np.bincount(self.component)
        self.linked: int = int((size >= max(2.0, _DUST * n / self.K)).sum())
        if size[: self.linked].sum() < self.K:  # dust, but all there is
            self.linked = int((size > 1).sum())
        self.edged: Array = np.flatnonzero(self.component < self.linked)
        self.size: Array = size
        self.embedding: SpectralEmbedding | None = None

    def labels(self) -> Array:
        K, n = self.K, self.n
        if K == 1:
            return np.zeros(n, dtype=np.int64)
        if K == n:
            return np.arange(n, dtype=np.int64)
        rest = n - self.edged.size
        self._warn(rest)
        if self.linked >= K or self.edged.size <= K <= self.linked + rest:
            labels = np.where(self.component < K, self.component, 0)
        elif self.edged.size <= K:
            labels = np.zeros(n, dtype=np.int64)
            labels[np.argsort(self.component, kind="stable")[:K]] = np.arange(K)
        else:
            found = self._found()
            labels = np.full(n, np.bincount(found).argmax(), dtype=np.int64)
            labels[self.edged] = found
        return _in_order_of_appearance(labels)

    def stability(self) -> float:
        """Return the stability of :class:`SpectralLabels`."""
        if not self._needs_eigenvectors():
            return 1.0
        found = [self._kmeans(self._weighted(factor * self.K)) for factor in (*_FEWER_EIGENVECTORS, _EIGENVECTORS)]
        pairs = list(itertools.combinations(found, 2))
        return float(np.mean([adjusted_rand_score(a, b) for a, b in pairs]))

    def _needs_eigenvectors(self) -> bool:
        return 1 < self.K < self.n and self.linked < self.K < self.edged.size

    def _warn(self, rest: int) -> None:
        edgeless = int((self.size == 1).sum())
        if edgeless:
            warnings.warn(
                f"{edgeless} of {self.n} samples have no edge in the affinity graph; their labels are a convention",
                FragmentedGraphWarning,
                stacklevel=4,
            )
        if rest > edgeless:
            warnings.warn(
                f"{rest - edgeless} of {self.n} samples lie in pieces of the affinity graph smaller than {_DUST:g} of "
                "the mean cluster; they join the largest cluster",
                FragmentedGraphWarning,
                stacklevel=4,
            )
        if self.linked > self.K:
            warnings.warn(
                f"the affinity graph has {self.linked} connected components for {self.K} clusters: the {self.K} "
                f"largest become the clusters and {int(self.size[self.K : self.linked].sum())} samples of the others "
                "join the largest; keep more coefficients (a larger threshold, or affinity='post')",
                FragmentedGraphWarning,
                stacklevel=4,
            )

    def _found(self) -> Array:
        """Return labels of the samples that take part, from eigenvectors."""
        if self.assign_labels == "kmeans":
            if self.n_eigenvectors is None:
                return self._kmeans(self._weighted(_EIGENVECTORS * self.K))
            return self._kmeans(_unit_rows(self._vectors(int(self.n_eigenvectors))[0]))
        vectors = self._vectors(self.K)[0]
        with threadpool_limits(limits=1, user_api="openmp"):
            if self.assign_labels == "discretize":
                return discretize(vectors, random_state=self.seed)
            return cluster_qr(vectors)

    def _kmeans(self, rows: Array) -> Array:
        # One thread: scikit-learn adds up partial centers in order of arrival, and two runs must agree.
        with threadpool_limits(limits=1, user_api="openmp"):
            return KMeans(self.K, n_init=self.n_init, random_state=self.seed).fit_predict(rows)

    def _weighted(self, count: float) -> Array:
        """Return unit rows of that many eigenvectors, each weighted by how far its eigenvalue lies above the next
        one's.
        """
        vectors, values = self._vectors(math.ceil(count) + 1)
        room = 1.0 - values[-1]
        # No room: as many pieces that hardly hang together as there are vectors, and none weighs less than another.
        weight = (values - values[-1]) / room if room > 1e-9 else np.ones_like(values)
        return _unit_rows(vectors * weight)

    def _vectors(self, count: int) -> tuple[Array, Array]:
        """Return the top `count` eigenvectors, or all, of the samples that take part, and their eigenvalues."""
        most = min(count, self.edged.size)
        if self.embedding is None or self.embedding.values.size < most:
            self.embedding = embed(self.graph, most)
        return self.embedding.vectors[self.edged, :most], self.embedding.values[:most]


def cluster_coefficients(
    coefficients: Coefficients,
    n_clusters: int,
    *,
    n_eigenvectors: int | None = None,
    assign_labels: str = "discretize",
    seed: int = 0,
    **graph: Any,
) -> tuple[Array, AffinityMatrix]:
    """Return ``(labels, affinity)`` of a coefficient matrix (N, N):
    :func:`dsclust.graph.affinity.coefficient_affinity`, which takes `graph`, then :func:`spectral_clustering`.
    """
    W = coefficient_affinity(coefficients, n_clusters, **graph)
    labels = spectral_clustering(W, n_clusters, n_eigenvectors=n_eigenvectors, assign_labels=assign_labels, seed=seed)
    return labels, W
