"""Eigenvectors of an affinity graph: the top ones of ``D^-1/2 W D^-1/2``, exact where it falls apart into components.

Owns a graph's eigenpairs: LAPACK where a component is small, Lanczos in float32 where it is large, checked in float64.
Sources: Ng, Jordan & Weiss, NIPS 2001; ARPACK through SciPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from dsclust.graph.affinity import blas_threads, check_count
from dsclust.graph.graph import DENSE_LIMIT, Graph, Product, as_graph
from dsclust.samples import Array
from dsclust.signs import point_upwards

# A sparse component beyond this size goes to Lanczos first, where a product costs far less than N².
_SPARSE_DENSE_LIMIT = 2048
_ORTHOGONALITY_TOLERANCE = 1e-6
# Lanczos stops at this residual: in float32 first, and where its answer does not stand the check, in float64. At 1e-2
# ARPACK can return wrong vectors without a word.
_LANCZOS_TOLERANCES = ((np.float32, 1e-3), (np.float64, 1e-8))


class SpectralEmbedding(NamedTuple):
    """Hold the top eigenpairs of ``D^-1/2 W D^-1/2``, pooled over connected components.

    ``vectors`` (N, n_eigenvectors) float64, orthonormal columns, rows of samples without an edge are zero;
    ``values`` (n_eigenvectors,) descending, 1 once per component; ``component`` (N,) int64, the component of each
    sample, numbered by size, largest first.
    """

    vectors: Array
    values: Array
    component: Array


def _lapack_top(build: Callable[[], Array], k: int) -> tuple[Array, Array]:
    """Return the top k eigenpairs of the float64 matrix that `build` makes anew, so that LAPACK may destroy it."""
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


def _lanczos_top(product: Product, n: int, k: int, dtype: npt.DTypeLike, tolerance: float) -> tuple[Array, Array]:
    """Return the top k eigenpairs by ARPACK, completed until no larger one is left in the orthogonal complement.

    One Krylov space holds one vector of each eigenspace, so ARPACK can return k converged pairs and still have missed
    copies of an eigenvalue that it did return; a residual check does not see it. Deflating what was found and asking
    for the largest remaining eigenvalue does. Krylov spaces are built in `dtype`; what joins them is float64. Raises
    ArpackError where ARPACK does not converge or the residuals are not what it said.
    """

    def largest(multiply: Product, count: int, space: int, seed: int, basis: Array | None = None) -> Any:
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


def _component_top(graph: Graph, k: int) -> tuple[Array, Array]:
    """Return the top k eigenpairs of ``D^-1/2 W D^-1/2`` of one connected graph."""
    n = graph.n
    if n <= (_SPARSE_DENSE_LIMIT if graph.is_sparse else DENSE_LIMIT) or k > n // 3:
        values, vectors = _lapack_top(graph.normalized, k)
    else:
        try:
            values, vectors = _lanczos(graph, k)
        except ArpackError as error:
            if n > DENSE_LIMIT:
                raise RuntimeError(
                    f"spectral_embedding: ARPACK failed on a component of {n} samples, too many for a dense "
                    f"decomposition ({error}); ask for fewer eigenvectors or a graph with a clearer gap"
                ) from error
            values, vectors = _lapack_top(graph.normalized, k)
    return values, point_upwards(vectors)


def _lanczos(graph: Graph, k: int) -> tuple[Array, Array]:
    """Return the top k eigenpairs by ARPACK, in float32 or, where that does not stand the check, in float64."""
    failed: ArpackError | None = None
    for dtype, tolerance in _LANCZOS_TOLERANCES:
        try:
            return _lanczos_top(graph.normalized_product(dtype), graph.n, k, dtype, tolerance)
        except ArpackError as error:
            failed = error
    assert failed is not None
    raise failed


def embed(graph: Graph, n_eigenvectors: int) -> SpectralEmbedding:
    """Return the :func:`spectral_embedding` of a graph; the components numbered first count."""
    component = graph.components
    size = np.bincount(component)
    linked = int((size > 1).sum())  # components are numbered by size: the linked ones come first
    # Every linked component holds one eigenvalue 1, so none can place more than this many among the first.
    most = max(1, n_eigenvectors - linked + 1)
    nodes = [np.flatnonzero(component == c) for c in range(min(linked, n_eigenvectors))]
    pairs = [_component_top(graph.subgraph(node), min(most, node.size)) for node in nodes]
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
    """Return the top eigenvectors of ``D^-1/2 W D^-1/2``, exact on disconnected graphs.

    affinity: (N, N) dense array, SciPy sparse or `Graph`; symmetric, non-negative, finite; its diagonal is ignored. The
    graph is split into connected components, each is decomposed alone, and the pairs are pooled by eigenvalue: the
    eigenvalue 1 comes once per component, then the largest of the rest. (One Lanczos run over the whole graph can miss
    copies of the repeated eigenvalue 1 at any tolerance.) A sample without an edge has a zero row and no eigenpair;
    with more components than `n_eigenvectors` the largest ones are embedded.

    A component is solved by LAPACK up to N = 8192 (sparse: 2048). Above, ARPACK runs in float32 to residuals of 1e-3
    from a fixed start vector; deflation looks for eigenvalues that were missed, and residuals are checked in float64.
    What does not stand that is solved again in float64 to 1e-8, and refused where that fails too. Lanczos costs some
    hundred products with W; memory O(N k).

    Returns a :class:`SpectralEmbedding`. Raises TypeError or ValueError naming the argument, and RuntimeError.
    Deterministic for a given BLAS.
    """
    graph = as_graph(affinity, "spectral_embedding")
    check_count("spectral_embedding", "n_eigenvectors", n_eigenvectors, graph.n)
    return embed(graph, int(n_eigenvectors))
