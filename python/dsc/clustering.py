"""From a coefficient matrix to labels: normalised spectral clustering of its affinity graph (Ng, Jordan & Weiss, 2001).

Owns the spectral step, exact when the graph falls apart into connected components, and the one path from C to labels
that every method shares. The graph comes from `dsc.affinity`; this file never touches a network, a data set or true
labels.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from sklearn.cluster import KMeans
from sklearn.cluster._spectral import cluster_qr, discretize
from threadpoolctl import threadpool_limits

from dsc.affinity import (
    AFFINITIES,
    Array,
    Coefficients,
    Graph,
    blas_threads,
    check_count,
    neighbour_affinity,
    plain_affinity,
    post_affinity,
    sparse_affinity,
)

ASSIGN_LABELS = ("kmeans", "discretize", "cluster_qr")

# A connected component up to this size is solved by LAPACK: beyond doubt, and quicker than Lanczos on a dense matrix.
_DENSE_LIMIT = 8192
# A sparse one beyond this size goes to verified Lanczos first, where a product costs far less than N².
_SPARSE_DENSE_LIMIT = 2048
_SPARSE_DENSITY = 0.1
_SYMMETRY_TOLERANCE = 1e-5
_RESIDUAL_TOLERANCE = 1e-6


class FragmentedGraphWarning(UserWarning):
    """The affinity graph has more pieces than clusters, or samples without an edge: some labels are a convention."""


class SpectralEmbedding(NamedTuple):
    """Top eigenpairs of ``D^-1/2 W D^-1/2``, pooled over connected components.

    ``vectors`` (N, n_eigenvectors) float64, orthonormal columns, rows of samples without an edge are zero;
    ``values`` (n_eigenvectors,) descending, 1 once per component; ``component`` (N,) int64, the component of each
    sample, numbered by size, largest first.
    """

    vectors: Array
    values: Array
    component: Array


def _graph(affinity: Any, owner: str) -> Graph:
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
        if W.nnz > _SPARSE_DENSITY * W.shape[0] ** 2 and W.shape[0] <= _DENSE_LIMIT:
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


def _components(W: Graph) -> Array:
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
        if np.abs(vectors.T @ vectors - np.eye(k)).max() < _RESIDUAL_TOLERANCE:
            return values[::-1], vectors[:, ::-1]
        S = build()
    with blas_threads(n):
        values, vectors = scipy.linalg.eigh(S, driver="evd", overwrite_a=True, check_finite=False)
    return values[::-1][:k], vectors[:, ::-1][:, :k]


def _lanczos_top(product: LinearOperator, k: int) -> tuple[Array, Array]:
    """The top k eigenpairs by ARPACK, completed until no larger one is left in the orthogonal complement.

    One Krylov space holds one vector of each eigenspace, so ARPACK can return k converged pairs and still have missed
    copies of an eigenvalue that it did return; a residual check does not see it. Deflating what was found and asking
    for the largest remaining eigenvalue does. Raises ArpackError when ARPACK does not converge.
    """
    n = product.shape[0]
    start = np.random.default_rng(0).standard_normal(n)
    values, vectors = eigsh(product, k=k, which="LA", v0=start, ncv=min(n, max(2 * k + 1, k + 32)))
    for attempt in range(1, k + 2):
        order = np.argsort(-values, kind="stable")[:k]
        values, vectors = values[order], np.linalg.qr(vectors[:, order])[0]
        basis = vectors

        def deflated(x: Array, basis: Array = basis) -> Array:
            x = x.reshape(-1)
            x = x - basis @ (basis.T @ x)
            y = product.matvec(x)
            # Eigenvalues of S are >= -1: shifted by one, none left over lies below the zeros of the deflated space.
            return y - basis @ (basis.T @ y) + x

        start = np.random.default_rng(attempt).standard_normal(n)
        start -= basis @ (basis.T @ start)
        remaining, extra = eigsh(
            LinearOperator((n, n), matvec=deflated, dtype=np.float64),
            k=1, which="LA", v0=start, ncv=min(n, 32), tol=1e-5,
        )  # fmt: skip
        if remaining[0] - 1.0 <= values[-1] + 1e-5:
            break
        extra -= basis @ (basis.T @ extra)
        extra /= np.linalg.norm(extra)
        values = np.append(values, extra[:, 0] @ product.matvec(extra[:, 0]))
        vectors = np.hstack([vectors, extra])
    # Rayleigh-Ritz: the pairs joined above are exact in their span.
    image = product.matmat(vectors)
    values, rotation = np.linalg.eigh(vectors.T @ image)
    values, rotation = values[::-1], rotation[:, ::-1]
    vectors, image = vectors @ rotation, image @ rotation
    residual = float(np.linalg.norm(image - vectors * values, axis=0).max())
    if residual > 1e-3:
        raise ArpackNoConvergence(f"residual {residual:.2g} after convergence", values, vectors)
    return values, vectors


def _component_top(W: Graph, k: int) -> tuple[Array, Array]:
    """Top k eigenpairs of ``D^-1/2 W D^-1/2`` of one connected graph; W without a diagonal."""
    n = W.shape[0]
    scale = 1.0 / np.sqrt(np.asarray(W.sum(axis=1, dtype=np.float64)).ravel())
    sparse = isinstance(W, scipy.sparse.csr_array)

    def normalised() -> Array:
        # Column-major, as LAPACK wants it: no further copy.
        S = np.empty((n, n), order="F")
        np.multiply(W.toarray() if sparse else W, scale[:, None], out=S)
        S *= scale
        return S

    if n <= (_SPARSE_DENSE_LIMIT if sparse else _DENSE_LIMIT) or k > n // 3:
        values, vectors = _lapack_top(normalised, k)
    else:

        def product(x: Array) -> Array:
            weight = scale.reshape(-1, *[1] * (x.ndim - 1))
            return weight * (W @ (weight * x))

        try:
            operator = LinearOperator((n, n), matvec=product, matmat=product, dtype=np.float64)
            values, vectors = _lanczos_top(operator, k)
        except ArpackError as error:
            if n > _DENSE_LIMIT:
                raise RuntimeError(
                    f"spectral_embedding: ARPACK failed on a component of {n} samples, too many for a dense "
                    f"decomposition ({error}); ask for fewer eigenvectors or a graph with a clearer gap"
                ) from error
            values, vectors = _lapack_top(normalised, k)
    # The sign of an eigenvector is a convention: its largest entry is positive.
    peak = vectors[np.abs(vectors).argmax(axis=0), np.arange(k)]
    return values, vectors * np.where(peak < 0, -1.0, 1.0)


def _subgraph(W: Graph, nodes: Array) -> Graph:
    if nodes.size == W.shape[0]:
        return W
    return W[nodes][:, nodes] if isinstance(W, scipy.sparse.csr_array) else W[np.ix_(nodes, nodes)]


def _embed(W: Graph, component: Array, n_eigenvectors: int) -> SpectralEmbedding:
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
    repeated eigenvalue 1 at any tolerance.) A component is solved by LAPACK up to N = 8192 (sparse: 2048), above by
    ARPACK from a fixed start vector, verified by deflation. A sample without an edge has a zero row and no eigenpair;
    with more components than `n_eigenvectors` the largest ones are embedded.

    Returns a :class:`SpectralEmbedding`. Raises TypeError or ValueError naming the argument.
    """
    W = _graph(affinity, "spectral_embedding")
    check_count("spectral_embedding", "n_eigenvectors", n_eigenvectors, W.shape[0])
    return _embed(W, _components(W), int(n_eigenvectors))


def _unit_rows(X: Array) -> Array:
    norm = np.linalg.norm(X, axis=1, keepdims=True)
    return np.divide(X, norm, out=np.zeros_like(X), where=norm > 0)


def _in_order_of_appearance(labels: Array) -> Array:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[inverse]


def spectral_clustering(
    affinity: Any,
    n_clusters: int,
    *,
    n_eigenvectors: int | None = None,
    assign_labels: str = "kmeans",
    n_init: int = 10,
    seed: int = 0,
) -> Array:
    """Labels (N,) int64 in ``0..K-1``, numbered in order of appearance, of a normalised spectral clustering.

    affinity: (N, N) dense or SciPy sparse, symmetric, non-negative; the diagonal is ignored.
    n_eigenvectors: columns of the embedding, default `n_clusters` (DSC-Net's convention).
    assign_labels: what turns the unit rows of the embedding into labels: ``"kmeans"`` (`n_init` seeded starts),
    ``"discretize"`` (Yu & Shi 2003, DSC-Net's choice) or ``"cluster_qr"`` (Damle et al. 2019); the last two for
    ``n_eigenvectors == n_clusters`` only. All K labels are used, except where those two leave one empty.

    A graph in exactly K pieces is answered by its components, no eigenvector involved. Where the graph says nothing a
    convention answers, with a :class:`FragmentedGraphWarning`:

    - more than K components: the K largest are the clusters, the samples of the others join the largest;
    - samples without an edge join the largest cluster (they take no eigenvector and no cluster), unless fewer than K
      samples have an edge: then edgeless ones fill the missing clusters, first come first.

    Deterministic for a given `seed` and BLAS. Errors: TypeError or ValueError naming the argument.
    """
    owner = "spectral_clustering"
    W = _graph(affinity, owner)
    n = W.shape[0]
    check_count(owner, "n_clusters", n_clusters, n)
    K = int(n_clusters)
    if assign_labels not in ASSIGN_LABELS:
        raise ValueError(f"{owner}: assign_labels must be one of {ASSIGN_LABELS}, got {assign_labels!r}")
    dim = K if n_eigenvectors is None else n_eigenvectors
    check_count(owner, "n_eigenvectors", dim, n)
    if dim != K and assign_labels != "kmeans":
        raise ValueError(
            f"{owner}: assign_labels={assign_labels!r} needs n_eigenvectors == n_clusters = {K}, got {dim}"
        )
    if isinstance(n_init, bool) or not isinstance(n_init, numbers.Integral) or n_init < 1:
        raise ValueError(f"{owner}: n_init must be an integer >= 1, got {n_init!r}")
    if K == 1:
        return np.zeros(n, dtype=np.int64)
    if K == n:
        return np.arange(n, dtype=np.int64)

    component = _components(W)
    size = np.bincount(component)
    linked = int((size > 1).sum())
    edged = np.flatnonzero(component < linked)
    edgeless = n - edged.size
    if edgeless:
        warnings.warn(
            f"{edgeless} of {n} samples have no edge in the affinity graph; their labels are a convention",
            FragmentedGraphWarning,
            stacklevel=2,
        )

    if linked >= K or (edged.size <= K <= linked + edgeless):
        if linked > K:
            warnings.warn(
                f"the affinity graph has {linked} connected components for {K} clusters: the {K} largest "
                f"become the clusters and {int(size[K:linked].sum())} samples of the others join the largest; "
                "keep more coefficients (a larger threshold, or affinity='post')",
                FragmentedGraphWarning,
                stacklevel=2,
            )
        labels = np.where(component < K, component, 0)
    elif edged.size <= K:
        labels = np.zeros(n, dtype=np.int64)
        labels[np.argsort(component, kind="stable")[:K]] = np.arange(K)
    else:
        embedding = _embed(W, component, min(int(dim), edged.size))
        rows = _unit_rows(embedding.vectors[edged])
        # One thread: scikit-learn adds up partial centres in order of arrival, and two runs must agree.
        with threadpool_limits(limits=1, user_api="openmp"):
            if assign_labels == "kmeans":
                found = KMeans(K, n_init=int(n_init), random_state=seed).fit_predict(rows)
            elif assign_labels == "discretize":
                found = discretize(embedding.vectors[edged], random_state=seed)
            else:
                found = cluster_qr(embedding.vectors[edged])
        labels = np.full(n, np.bincount(found).argmax(), dtype=np.int64)
        labels[edged] = found
    return _in_order_of_appearance(labels)


def cluster_coefficients(
    coefficients: Coefficients,
    n_clusters: int,
    *,
    affinity: str = "post",
    threshold: float = 0.04,
    subspace_dim: int = 12,
    power: float = 8.0,
    unit_diagonal: bool = False,
    n_eigenvectors: int | None = None,
    assign_labels: str = "discretize",
    seed: int = 0,
) -> tuple[Array, Graph]:
    """Coefficient matrix (N, N) to ``(labels, affinity)``: the one path every method shares.

    coefficients: dense, `torch.sparse_csr` or SciPy sparse. affinity: ``"post"`` (:func:`post_affinity`, with
    `threshold`, `subspace_dim`, `power`, `unit_diagonal`; the others do not use those four), ``"plain"``
    (:func:`plain_affinity`), ``"sparse"`` (:func:`sparse_affinity`) or ``"neighbours"`` (:func:`neighbour_affinity`).
    The last two give a CSR matrix, and all but the first keep a sparse C sparse. The rest goes to
    :func:`spectral_clustering`.
    """
    W: Graph
    if affinity == "post":
        W = post_affinity(
            coefficients,
            n_clusters,
            threshold=threshold,
            subspace_dim=subspace_dim,
            power=power,
            unit_diagonal=unit_diagonal,
        )
    elif affinity == "plain":
        W = plain_affinity(coefficients)
    elif affinity == "sparse":
        W = sparse_affinity(coefficients)
    elif affinity == "neighbours":
        W = neighbour_affinity(coefficients, n_clusters)
    else:
        raise ValueError(f"cluster_coefficients: affinity must be one of {AFFINITIES}, got {affinity!r}")
    labels = spectral_clustering(W, n_clusters, n_eigenvectors=n_eigenvectors, assign_labels=assign_labels, seed=seed)
    return labels, W
