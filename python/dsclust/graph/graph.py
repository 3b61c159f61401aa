"""A graph as the spectral step sees it: an affinity that was checked once, its products, degrees and components.

Owns the check of an affinity and how its matrix is held, dense or CSR. Whatever asks for eigenvectors or a cut asks for
`product`, so that a graph which is never a matrix (on several machines, say) can stand here with the same few names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from dsclust.graph.affinity import AffinityMatrix
from dsclust.samples import Array

# Up to this size a sparse graph may be made dense: LAPACK is beyond doubt, and quicker than Lanczos on a dense matrix.
DENSE_LIMIT = 8192
_SPARSE_DENSITY = 0.1
_SYMMETRY_TOLERANCE = 1e-5

Product = Callable[[Array], Array]


class Graph:
    """Hold a symmetric, non-negative affinity W (N, N) without its diagonal: a self-loop joins nobody.

    matrix: W, a float ndarray or `scipy.sparse.csr_array`. Made by :func:`as_graph`, which checks.
    """

    def __init__(self, matrix: AffinityMatrix) -> None:
        self.matrix = matrix

    @property
    def n(self) -> int:
        return int(self.matrix.shape[0])

    @property
    def is_sparse(self) -> bool:
        return isinstance(self.matrix, scipy.sparse.csr_array)

    def product(self, X: AffinityMatrix) -> AffinityMatrix:
        """Return W X for X (N,) or (N, m), dense; for a sparse X as SciPy gives it."""
        return self.matrix @ X

    @cached_property
    def degrees(self) -> Array:
        """The weight of each sample's edges, (N,) float64."""
        return np.asarray(self.matrix.sum(axis=1, dtype=np.float64)).ravel()

    @cached_property
    def components(self) -> Array:
        """The connected component of each sample, (N,), numbered by size (largest first, ties by the lowest sample)."""
        found = self._components()
        size = np.bincount(found)
        first = np.full(size.size, self.n)
        np.minimum.at(first, found, np.arange(self.n))
        rank = np.empty(size.size, dtype=np.int64)
        rank[np.lexsort((first, -size))] = np.arange(size.size)
        return rank[found]

    def _components(self) -> Array:
        W, n = self.matrix, self.n
        if self.is_sparse:
            return connected_components(W, directed=False)[1]
        # Breadth first on rows: a dense graph is done after its first row, where building a CSR would cost N² indices.
        found = np.full(n, -1, dtype=np.int64)
        count = 0
        while (open_ := np.flatnonzero(found < 0)).size:
            frontier = open_[:1]
            found[frontier] = count
            while frontier.size and (found < 0).any():
                reached = np.zeros(n, dtype=bool)
                for start in range(0, frontier.size, 256):
                    reached |= (W[frontier[start : start + 256]] > 0).any(axis=0)
                frontier = np.flatnonzero(reached & (found < 0))
                found[frontier] = count
            count += 1
        return found

    def subgraph(self, nodes: Array) -> Graph:
        """Return the graph of some samples, (m,) indices in rising order; itself for all."""
        if nodes.size == self.n:
            return self
        return Graph(self.matrix[nodes][:, nodes] if self.is_sparse else self.matrix[np.ix_(nodes, nodes)])

    def normalized(self) -> Array:
        """Return ``D^-1/2 W D^-1/2`` (N, N) float64, dense, column-major as LAPACK wants it; every sample has an
        edge.
        """
        scale = 1.0 / np.sqrt(self.degrees)
        S = np.empty((self.n, self.n), order="F")
        np.multiply(self.matrix.toarray() if self.is_sparse else self.matrix, scale[:, None], out=S)
        S *= scale
        return S

    def normalized_product(self, dtype: npt.DTypeLike) -> Product:
        """Return X -> ``D^-1/2 W D^-1/2 X`` for X (N,) or (N, m) in `dtype` or float64, computed in X's own type."""
        scale = 1.0 / np.sqrt(self.degrees)
        matrices = {np.dtype(kind): self.matrix.astype(kind, copy=False) for kind in (dtype, np.float64)}
        scales = {kind: scale.astype(kind) for kind in matrices}

        def product(x: Array) -> Array:
            weight = scales[x.dtype].reshape(-1, *[1] * (x.ndim - 1))
            return weight * (matrices[x.dtype] @ (weight * x))

        return product


def as_graph(affinity: Any, owner: str) -> Graph:
    """Return a graph as it is, and an affinity (N, N), dense or SciPy sparse, as one, checked and copied.

    Raises TypeError for other than numbers, ValueError for a shape that is not square, values that are not finite or
    negative, and a matrix that is not symmetric; `owner` is named.
    """
    if isinstance(affinity, Graph):
        return affinity
    if scipy.sparse.issparse(affinity):
        W = scipy.sparse.csr_array(affinity, copy=True)
        W.sum_duplicates()
    else:
        W = np.array(affinity)
    if not np.issubdtype(W.dtype, np.floating):
        if not (np.issubdtype(W.dtype, np.integer) or W.dtype == bool):
            raise TypeError(f"{owner}: affinity must be numeric, got {W.dtype}")
        W = W.astype(np.float64)
    elif W.dtype not in (np.float32, np.float64):
        W = W.astype(np.float32)
    if W.ndim != 2 or W.shape[0] != W.shape[1] or W.shape[0] == 0:
        raise ValueError(f"{owner}: affinity must be (N, N) with N >= 1, got {W.shape}")
    entries = W.data if isinstance(W, scipy.sparse.csr_array) else W
    if not np.isfinite(entries).all():
        raise ValueError(f"{owner}: affinity must be finite, got NaN or infinity")
    if entries.size and entries.min() < 0:
        raise ValueError(f"{owner}: affinity must be non-negative, got {entries.min():.3g}")
    largest = float(entries.max()) if entries.size else 0.0
    if isinstance(W, scipy.sparse.csr_array):
        skew = float(abs(W - W.T).max()) if W.nnz else 0.0
        W.setdiag(0.0)
        W.eliminate_zeros()
        if W.nnz > _SPARSE_DENSITY * W.shape[0] ** 2 and W.shape[0] <= DENSE_LIMIT:
            W = W.toarray()
    else:
        step = max(1, 2**22 // W.shape[0])
        skew = max(float(np.abs(W[i : i + step] - W[:, i : i + step].T).max()) for i in range(0, W.shape[0], step))
        np.fill_diagonal(W, 0.0)
    if skew > _SYMMETRY_TOLERANCE * largest:
        raise ValueError(
            f"{owner}: affinity must be symmetric, got |W - W.T| up to {skew:.3g} (largest entry {largest:.3g})"
        )
    return Graph(W)
