"""Eigenvectors of an affinity graph: the top ones of ``D^-1/2 W D^-1/2``, exact where it falls apart into components.

Owns the check of a graph, its connected components and its eigenpairs: LAPACK where a component is small, Lanczos in
float32 where it is large, checked in float64. Sources: Ng, Jordan & Weiss, NIPS 2001; ARPACK through SciPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from dsclust.graph.affinity import Array, Graph, blas_threads, check_count

# A connected component up to this size is solved by LAPACK: beyond doubt, and quicker than Lanczos on a dense matrix.
DENSE_LIMIT = 8192
# A sparse one beyond this size goes to Lanczos first, where a product costs far less than N².
_SPARSE_DENSE_LIMIT = 2048
_SPARSE_DENSITY = 0.1
_SYMMETRY_TOLERANCE = 1e-5
_ORTHOGONALITY_TOLERANCE = 1e-6
# Lanczos stops at this residual: in float32 first, and where its answer does not stand the check, in float64. At 1e-2
# ARPACK can return wrong vectors without a word.
_LANCZOS_TOLERANCES = ((np.float32, 1e-3), (np.float64, 1e-8))


class SpectralEmbedding(NamedTuple):
    """Top eigenpairs of ``D^-1/2 W D^-1/2``, pooled over connected components.

    ``vectors`` (N, n_eigenvectors) float64, orthonormal columns, rows of samples without an edge are zero;
    ``values`` (n_eigenvectors,) descending, 1 once per component; ``component`` (N,) int64, the component of each
    sample, numbered by size, largest first.
    """

    vectors: Array
    values: Array
    component: Array


def checked_graph(affinity: Any, owner: str) -> Graph:
    """The affinity without its diagonal (a self-loop joins nobody), checked; sparse input as CSR."""
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
    return W


def graph_components(W: Graph) -> Array:
    """Connected component of each node, numbered by size (largest first, ties by the lowest node)."""
    n = W.shape[0]
    if isinstance(W, scipy.sparse.csr_array):
        _, found = connected_components(W, directed=False)
    else:
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
    size = np.bincount(found)
    first = np.full(size.size, n)
    np.minimum.at(first, found, np.arange(n))
    rank = np.empty(size.size, dtype=np.int64)
    rank[np.lexsort((first, -size))] = np.arange(size.size)
    return rank[found]


def _lapack_top(build: Callable[[], Array], k: int) -> tuple[Array, Array]:
    """Top k eigenpairs of the float64 matrix that `build` makes anew, so that LAPACK may destroy it."""
    S = build()
    n = S.shape[0]
    if k < n // 4:
        with blas_threads(n):
            values, vectors = scipy.linalg.eigh(
                S, subset_by_index=[n - k, n - 1], driver="evr", overwrite_a=True, check_finite=False
            )
        # Bisection with inverse iteration may return parallel vectors for eigenvalues that agree to the last bit.
        if np.abs(vectors.T @ vectors - np.eye(k)).max() < _ORTHOGONALITY_TOLERANCE:
            return values[::-1], vectors[:, ::-1]
        S = build()
    with blas_threads(n):
        values, vectors = scipy.linalg.eigh(S, driver="evd", overwrite_a=True, check_finite=False)
    return values[::-1][:k], vectors[:, ::-1][:, :k]


_Product = Callable[[Array], Array]


def _lanczos_top(product: _Product, n: int, k: int, dtype: npt.DTypeLike, tolerance: float) -> tuple[Array, Array]:
    """The top k eigenpairs by ARPACK, completed until no larger one is left in the orthogonal complement.

    One Krylov space holds one vector of each eigenspace, so ARPACK can return k converged pairs and still have missed
    copies of an eigenvalue that it did return; a residual check does not see it. Deflating what was found and asking
    for the largest remaining eigenvalue does. Krylov spaces are built in `dtype`; what joins them is float64. Raises
    ArpackError where ARPACK does not converge or the residuals are not what it said.
    """

    def largest(multiply: _Product, count: int, space: int, seed: int, basis: Array | None = None) -> Any:
        start = np.random.default_rng(seed).standard_normal(n)
        if basis is not None:
            start -= basis @ (basis.T @ start)
        operator = LinearOperator((n, n), matvec=multiply, dtype=dtype)
        return eigsh(operator, count, which="LA", v0=start.astype(dtype), ncv=min(n, space), tol=tolerance)

    values, vectors = largest(product, k, max(2 * k + 1, k + 32), 0)
    for attempt in range(1, k + 2):
        order = np.argsort(-values, kind="stable")[:k]
        values, vectors = values[order].astype(np.float64), np.linalg.qr(vectors[:, order].astype(np.float64))[0]
        basis = vectors.astype(dtype)

        def deflated(x: Array, basis: Array = basis) -> Array:
            x = x.reshape(-1)
            x = x - basis @ (basis.T @ x)
            y = product(x)
            # Eigenvalues of S are >= -1: shifted by one, none left over lies below the zeros of the deflated space.
            return y - basis @ (basis.T @ y) + x

        remaining, extra = largest(deflated, 1, 32, attempt, vectors)
        if remaining[0] - 1.0 <= values[-1] + max(tolerance, 1e-5):
            break
        extra = extra.astype(np.float64)
        extra -= vectors @ (vectors.T @ extra)
        extra /= np.linalg.norm(extra)
        values = np.append(values, extra[:, 0] @ product(extra[:, 0]))
        vectors = np.hstack([vectors, extra])
    # Rayleigh-Ritz: the pairs joined above are exact in their span.
    image = product(vectors)
    values, rotation = np.linalg.eigh(vectors.T @ image)
    values, rotation = values[::-1], rotation[:, ::-1]
    vectors, image = vectors @ rotation, image @ rotation
    residual = float(np.linalg.norm(image - vectors * values, axis=0).max())
    if not residual <= 2.0 * max(tolerance, 1e-6):
        raise ArpackError(-9999, {-9999: f"residual {residual:.2g} after convergence to {tolerance:g}"})
    return values, vectors


def _component_top(W: Graph, k: int) -> tuple[Array, Array]:
    """Top k eigenpairs of ``D^-1/2 W D^-1/2`` of one connected graph; W without a diagonal."""
    n = W.shape[0]
    scale = 1.0 / np.sqrt(np.asarray(W.sum(axis=1, dtype=np.float64)).ravel())
    sparse = isinstance(W, scipy.sparse.csr_array)

    def normalized() -> Array:
        # Column-major, as LAPACK wants it: no further copy.
        S = np.empty((n, n), order="F")
        np.multiply(W.toarray() if sparse else W, scale[:, None], out=S)
        S *= scale
        return S

    def lanczos() -> tuple[Array, Array]:
        failed: ArpackError | None = None
        for dtype, tolerance in _LANCZOS_TOLERANCES:
            matrices = {np.dtype(kind): W.astype(kind, copy=False) for kind in (dtype, np.float64)}
            scales = {kind: scale.astype(kind) for kind in matrices}

            def product(x: Array, matrices: Any = matrices, scales: Any = scales) -> Array:
                weight = scales[x.dtype].reshape(-1, *[1] * (x.ndim - 1))
                return weight * (matrices[x.dtype] @ (weight * x))

            try:
                return _lanczos_top(product, n, k, dtype, tolerance)
            except ArpackError as error:
                failed = error
        assert failed is not None
        raise failed

    if n <= (_SPARSE_DENSE_LIMIT if sparse else DENSE_LIMIT) or k > n // 3:
        values, vectors = _lapack_top(normalized, k)
    else:
        try:
            values, vectors = lanczos()
        except ArpackError as error:
            if n > DENSE_LIMIT:
                raise RuntimeError(
                    f"spectral_embedding: ARPACK failed on a component of {n} samples, too many for a dense "
                    f"decomposition ({error}); ask for fewer eigenvectors or a graph with a clearer gap"
                ) from error
            values, vectors = _lapack_top(normalized, k)
    # The sign of an eigenvector is a convention: its largest entry is positive.
    peak = vectors[np.abs(vectors).argmax(axis=0), np.arange(k)]
    return values, vectors * np.where(peak < 0, -1.0, 1.0)


def _subgraph(W: Graph, nodes: Array) -> Graph:
    if nodes.size == W.shape[0]:
        return W
    return W[nodes][:, nodes] if isinstance(W, scipy.sparse.csr_array) else W[np.ix_(nodes, nodes)]


def embed(W: Graph, component: Array, n_eigenvectors: int) -> SpectralEmbedding:
    """:func:`spectral_embedding` of a checked graph whose components are known; those numbered first count."""
    size = np.bincount(component)
    linked = int((size > 1).sum())  # components are numbered by size: the linked ones come first
    # Every linked component holds one eigenvalue 1, so none can place more than this many among the first.
    most = max(1, n_eigenvectors - linked + 1)
    nodes = [np.flatnonzero(component == c) for c in range(min(linked, n_eigenvectors))]
    pairs = [_component_top(_subgraph(W, node), min(most, node.size)) for node in nodes]
    found = [(value, c, column) for c, (v, _) in enumerate(pairs) for column, value in enumerate(v)]
    # The first pair of each component is its eigenvalue 1; rounding must not let another overtake it.
    found.sort(key=lambda pair: (pair[2] != 0, -pair[0], pair[1]))
    if len(found) < n_eigenvectors:
        raise ValueError(
            f"spectral_embedding: the graph has {int(size[:linked].sum())} samples with an edge, too few for "
            f"{n_eigenvectors} eigenvectors"
        )
    vectors = np.zeros((component.size, n_eigenvectors))
    for j, (_, c, column) in enumerate(found[:n_eigenvectors]):
        vectors[nodes[c], j] = pairs[c][1][:, column]
    return SpectralEmbedding(vectors, np.array([value for value, _, _ in found[:n_eigenvectors]]), component)


def spectral_embedding(affinity: Any, n_eigenvectors: int) -> SpectralEmbedding:
    """Top eigenvectors of ``D^-1/2 W D^-1/2``, exact on disconnected graphs.

    affinity: (N, N) dense array or SciPy sparse, symmetric, non-negative, finite; its diagonal is ignored. The graph is
    split into connected components, each is decomposed alone, and the pairs are pooled by eigenvalue: the eigenvalue 1
    comes once per component, then the largest of the rest. (One Lanczos run over the whole graph can miss copies of the
    repeated eigenvalue 1 at any tolerance.) A sample without an edge has a zero row and no eigenpair; with more
    components than `n_eigenvectors` the largest ones are embedded.

    A component is solved by LAPACK up to N = 8192 (sparse: 2048). Above, ARPACK runs in float32 to residuals of 1e-3
    from a fixed start vector; deflation looks for eigenvalues that were missed, and residuals are checked in float64.
    What does not stand that is solved again in float64 to 1e-8, and refused where that fails too. Lanczos costs some
    hundred products with W; memory O(N k).

    Returns a :class:`SpectralEmbedding`. Raises TypeError or ValueError naming the argument, and RuntimeError.
    Deterministic for a given BLAS.
    """
    W = checked_graph(affinity, "spectral_embedding")
    check_count("spectral_embedding", "n_eigenvectors", n_eigenvectors, W.shape[0])
    return embed(W, graph_components(W), int(n_eigenvectors))
