"""What any method must beat: k-means, a nearest-neighbor graph, and closed-form ridge self-expression.

Owns four baselines without a network, without labels and without tuning, run on the very input the method gets. The two
graph baselines use the package's own spectral step, so that a difference comes from the graph. The ridge form is the
least-squares regression of Lu et al. (ECCV 2012) with a zero diagonal, solved in closed form.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from dsc_ext import topk_coefficients
from dsclust.graph.affinity import STRONGEST, AffinityMatrix, largest_graph
from dsclust.graph.clustering import spectral_clustering
from dsclust.metrics import Record, make_record
from dsclust.ridge import largest_pairs, unit_rows
from dsclust.samples import Array


def _matrix(X: npt.ArrayLike, n_clusters: int, owner: str) -> Array:
    data = np.asarray(X)
    if data.dtype not in (np.float32, np.float64):
        data = data.astype(np.float64)
    if data.ndim < 2 or data.shape[0] == 0 or data[0].size == 0:
        raise ValueError(f"{owner}: X must be (N, features) or (N, ...) images, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError(f"{owner}: X must be finite, got NaN or infinity")
    if not 1 <= n_clusters <= data.shape[0]:
        raise ValueError(
            f"{owner}: n_clusters must be between 1 and the number of samples {data.shape[0]}, got {n_clusters}"
        )
    return data.reshape(data.shape[0], -1)


def kmeans_labels(X: npt.ArrayLike, n_clusters: int, seed: int = 0) -> Array:
    """Run k-means (10 starts) on the input as it is: X (N, f) or (N, c, h, w), labels (N,) int64."""
    data = _matrix(X, n_clusters, "kmeans_labels")
    # One thread: scikit-learn adds up partial centers in order of arrival, and two runs must agree.
    with threadpool_limits(limits=1, user_api="openmp"):
        return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(data).astype(np.int64)


def unit_kmeans_labels(X: npt.ArrayLike, n_clusters: int, seed: int = 0) -> Array:
    """Run k-means (10 starts) on :func:`dsclust.ridge.unit_rows`, the normalization the graph baselines share."""
    return kmeans_labels(_unit_rows(X, n_clusters, "unit_kmeans_labels").numpy(), n_clusters, seed)


def knn_labels(X: npt.ArrayLike, n_clusters: int, seed: int = 0) -> Array:
    """Cluster the cosine 5-nearest-neighbor graph of unit rows by its spectrum; no self-expression at all.

    Rows are those of :func:`dsclust.ridge.unit_rows`. Weights are cosines, negatives set to 0, ``W = (A + Aᵀ)/2``. O(N²
    f) time, O(N f) memory.
    """
    Z = _unit_rows(X, n_clusters, "knn_labels")
    nearest = topk_coefficients((Z, Z), min(STRONGEST, Z.shape[0] - 1), signed=True)
    return spectral_clustering(largest_graph(*nearest), n_clusters, seed=seed)


def ridge_labels(X: npt.ArrayLike, n_clusters: int, seed: int = 0) -> Array:
    """Cluster by the spectrum of closed-form ridge self-expression with a zero diagonal, λ = N/K: see `dsclust.ridge`.

    Rows are those of :func:`dsclust.ridge.unit_rows`. The graph keeps the 5 largest entries per row of ``C + Cᵀ``,
    negatives set to 0, symmetrized by the mean. O(N² f + f³) time (O(N³) where f > N), O(N f) memory.
    """
    return spectral_clustering(ridge_graph(X, n_clusters), n_clusters, seed=seed)


def ridge_graph(X: npt.ArrayLike, n_clusters: int) -> AffinityMatrix:
    """Return the graph (N, N) of :func:`ridge_labels`, CSR: that of `dsclust.methods.ridge`, without C on the way."""
    Z = _unit_rows(X, n_clusters, "ridge_graph")
    n = Z.shape[0]
    values, indices, _ = largest_pairs(Z, n / n_clusters, min(STRONGEST, n - 1))
    return largest_graph(values, indices)


def _unit_rows(X: npt.ArrayLike, n_clusters: int, owner: str) -> Tensor:
    return unit_rows(torch.from_numpy(np.ascontiguousarray(_matrix(X, n_clusters, owner))))[0]


# X (N, f) or (N, ...), the number of clusters and a seed to labels (N,).
Baseline = Callable[[Array, int, int], Array]
BASELINES: dict[str, Baseline] = {
    "k-means": kmeans_labels,
    "k-means, unit rows": unit_kmeans_labels,
    "5-NN graph": knn_labels,
    "ridge": ridge_labels,
}


def run_baselines(
    X: npt.ArrayLike,
    n_clusters: int,
    seed: int = 0,
    labels: npt.ArrayLike | None = None,
    *,
    baselines: Mapping[str, Baseline] = BASELINES,
) -> list[Record]:
    """Run every baseline on X (N, ...), or those given, as records of the same shape as the method's own.

    A :class:`dsclust.metrics.Record` holds ``method``, ``acc``, ``nmi``, ``ari`` (None where `labels` is None) and
    ``seconds``. Deterministic for a given `seed`.
    """
    records = []
    for name, baseline in baselines.items():
        start = time.perf_counter()
        found = baseline(np.asarray(X), n_clusters, seed)
        records.append(make_record(name, found, labels, time.perf_counter() - start))
    return records
