"""From a coefficient matrix to labels: the affinity graph and its spectral clustering.

Owns the affinities: plain ``(|C| + |C|ᵀ)/2``, the largest few entries of a row, the nearest rows of C (SENet, CVPR
2021) and the post-processing of DSC-Net (Ji et al., NIPS 2017: thrC, rank ``d·K + 1``, angular similarity to a power); and
normalised spectral clustering (Ng, Jordan & Weiss, 2001) that stays exact when the graph falls apart into connected
components. C is dense, or CSR where a row has few entries, and then no N×N array is made but by "post". Thresholding
and symmetrising are `dsc_ext` ops; this file never touches a network, a data set or true labels.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse
import torch
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from sklearn.cluster import KMeans
from sklearn.cluster._spectral import cluster_qr, discretize
from threadpoolctl import threadpool_limits

import dsc_ext

AFFINITIES = ("post", "plain", "sparse", "neighbours")
ASSIGN_LABELS = ("kmeans", "discretize", "cluster_qr")
# Entries of a row that the sparse graph keeps.
STRONGEST = 5
# Rows of C that are joined to each row, as published for SENet.
NEIGHBOURS = 3
# Cosines of rows with all rows that exist at a time.
_BLOCK_ENTRIES = 2**22
# A connected component up to this size is solved by LAPACK: beyond doubt, and quicker than Lanczos on a dense matrix.
_DENSE_LIMIT = 8192
# A sparse one beyond this size goes to verified Lanczos first, where a product costs far less than N².
_SPARSE_DENSE_LIMIT = 2048
_SPARSE_DENSITY = 0.1
# DSC-Net's decomposition runs in float64 up to this size; the full spectrum costs ~9 N³ operations and 4 N² words.
_POST_FLOAT64_LIMIT = 4096
_ONE_THREAD_LIMIT = 2048
_SYMMETRY_TOLERANCE = 1e-5
_RESIDUAL_TOLERANCE = 1e-6

Array = npt.NDArray[Any]
Graph: TypeAlias = Any  # (N, N) ndarray or scipy.sparse.csr_array; SciPy ships no types
Coefficients: TypeAlias = Any  # (N, N) torch.Tensor, dense or CSR, ndarray or SciPy sparse


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


# --------------------------------------------------------------------------------------------------------------------
# Graph


def _coefficient_matrix(coefficients: Coefficients, owner: str) -> torch.Tensor:
    C = torch.as_tensor(coefficients.toarray() if scipy.sparse.issparse(coefficients) else coefficients).detach()
    C = C.to_dense() if C.layout is torch.sparse_csr else C
    if not C.is_floating_point():
        raise TypeError(f"{owner}: coefficients must be floating point, got {C.dtype}")
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise ValueError(f"{owner}: coefficients must be (N, N), got {tuple(C.shape)}")
    if not bool(torch.isfinite(C).all()):
        broken = int((~torch.isfinite(C)).any(dim=1).sum())
        raise ValueError(f"{owner}: coefficients must be finite, got NaN or infinity in {broken} of {C.shape[0]} rows")
    return C


def scipy_csr(C: torch.Tensor) -> scipy.sparse.csr_array:
    """A `torch.sparse_csr` tensor as SciPy's, on the CPU with sorted columns, in 32-bit indices where they do."""
    kind = scipy.sparse.get_index_dtype(maxval=max(*C.shape, C.values().numel()))
    column, crow = (part.cpu().numpy().astype(kind) for part in (C.col_indices(), C.crow_indices()))
    found = scipy.sparse.csr_array((C.values().cpu().numpy(), column, crow), shape=tuple(C.shape))
    return found if found.has_sorted_indices else found.sorted_indices()  # a copy: the values may be the tensor's


def _torch_csr(C: scipy.sparse.csr_array) -> torch.Tensor:
    crow, column, values = (torch.from_numpy(part) for part in (C.indptr, C.indices, C.data))
    return torch.sparse_csr_tensor(crow, column, values, C.shape, check_invariants=False)


def _sparse(coefficients: Coefficients, owner: str) -> scipy.sparse.csr_array | None:
    """Sparse coefficients, checked; None for dense ones."""
    if isinstance(coefficients, torch.Tensor) and coefficients.layout is torch.sparse_csr:
        C = scipy_csr(coefficients.detach())
    elif scipy.sparse.issparse(coefficients):
        C = scipy.sparse.csr_array(coefficients)
        C.sum_duplicates()
    else:
        return None
    if C.shape[0] != C.shape[1]:
        raise ValueError(f"{owner}: coefficients must be (N, N), got {C.shape}")
    if not np.issubdtype(C.dtype, np.floating):
        raise TypeError(f"{owner}: coefficients must be floating point, got {C.dtype}")
    if not np.isfinite(C.data).all():
        broken = np.unique(np.repeat(np.arange(C.shape[0]), np.diff(C.indptr))[~np.isfinite(C.data)]).size
        raise ValueError(f"{owner}: coefficients must be finite, got NaN or infinity in {broken} of {C.shape[0]} rows")
    return C


def plain_affinity(coefficients: Coefficients) -> Graph:
    """``W = (|C| + |C|ᵀ)/2`` (N, N) in C's dtype, dense for a dense C and CSR for a sparse one.

    coefficients: (N, N) float tensor or array, `torch.sparse_csr` or SciPy sparse, row i = coefficients of sample i.
    Costs O(N²), or O(nnz) time and memory. Raises TypeError for integers, ValueError for other shapes or non-finite
    entries, naming the argument.
    """
    sparse = _sparse(coefficients, "plain_affinity")
    if sparse is not None:
        return scipy_csr(dsc_ext.symmetrize_affinity(_torch_csr(sparse)))
    magnitude = _coefficient_matrix(coefficients, "plain_affinity").abs()
    W: Array = (magnitude + magnitude.T).div_(2).cpu().numpy()
    return W


def strongest_graph(n: int, rows_of: Callable[[slice], Array]) -> scipy.sparse.csr_array:
    """Affinity (N, N) of the 5 largest non-negative off-diagonal entries per row of a matrix that is never held whole.

    rows_of: a block of that matrix's rows, anew at each call. ``W = (A + Aᵀ)/2`` of what is kept, float64.
    """
    k = min(STRONGEST, n - 1)
    values, indices = np.zeros((n, k), dtype=np.float64), np.zeros((n, k), dtype=np.int64)
    step = max(1, _BLOCK_ENTRIES // n)
    for start in range(0, n, step):
        block = slice(start, min(start + step, n))
        score = rows_of(block)
        own = np.arange(block.start, block.stop)
        score[own - start, own] = -np.inf
        chosen = np.argpartition(-score, k - 1, axis=1)[:, :k]
        indices[block] = chosen
        values[block] = np.take_along_axis(score, chosen, axis=1).clip(min=0.0)
    return scipy_csr(dsc_ext.symmetrize_affinity(torch.from_numpy(values), torch.from_numpy(indices)))


def sparse_affinity(coefficients: Coefficients) -> scipy.sparse.csr_array:
    """The 5 largest entries per row of ``C + Cᵀ``, negatives set to 0, symmetrised by the mean: (N, N) float64, CSR.

    What a sample shares with all others at once, a common mean above all, drowns in few edges. The graph is that of
    `dsc.baselines.ridge_labels`, whatever C is. The diagonal is left out. Costs O(N²); memory O(N) beyond blocks of
    rows, and of a sparse C its entries once more. Raises as :func:`plain_affinity`.
    """
    sparse = _sparse(coefficients, "sparse_affinity")
    if sparse is None:
        C = _coefficient_matrix(coefficients, "sparse_affinity").cpu().numpy()
    else:
        both = (sparse + sparse.T).tocsr()
    n = C.shape[0] if sparse is None else both.shape[0]
    if n == 1:
        return scipy.sparse.csr_array((1, 1))
    return strongest_graph(n, lambda block: C[block] + C[:, block].T if sparse is None else both[block].toarray())


def neighbour_affinity(
    coefficients: Coefficients, n_clusters: int = 1, n_neighbours: int = NEIGHBOURS
) -> scipy.sparse.csr_array:
    """``W = (A + Aᵀ)/2``, A_ij = 1 for the `n_neighbours` rows j of C with the largest cosine to row i: float32 CSR.

    Two samples are alike if they are combined of the same samples with the same signs. Rows with a cosine of 0 or less
    are not joined, so that a sample without coefficients has no edge. Ours: where the graph falls into more than
    `n_clusters` pieces (samples without an edge apart), each row has as many neighbours as it takes to make them fewer,
    at most four times as many as asked for.

    coefficients: as for :func:`plain_affinity`. Costs 2 N³ operations for a dense C, for a sparse one twice the sum
    over its columns of their entries squared, 2 N k² or some times as many; memory O(nnz) and 2²² cosines at a time.
    Deterministic, ties to the lowest j. Source: Zhang et al., CVPR 2021, released code (nearest_neighbor, symmetric).
    """
    owner = "neighbour_affinity"
    if isinstance(n_neighbours, bool) or not isinstance(n_neighbours, numbers.Integral) or n_neighbours < 1:
        raise ValueError(f"{owner}: n_neighbours must be an integer >= 1, got {n_neighbours!r}")
    found = _nearest_rows(coefficients, 4 * int(n_neighbours), owner)
    most = found.shape[1]
    for k in range(min(int(n_neighbours), most), most + 1):
        near = found[:, :k].contiguous()
        W = scipy_csr(dsc_ext.symmetrize_affinity(torch.ones(near.shape), near))
        pieces = np.bincount(connected_components(W, directed=False)[1])
        if (pieces > 1).sum() <= n_clusters:
            break
    return W


def _nearest_rows(coefficients: Coefficients, k: int, owner: str) -> torch.Tensor:
    """(N, at most k): of each row of C the rows of largest positive cosine, the largest first, then -1."""
    sparse = _sparse(coefficients, owner)
    if sparse is None:
        C = _coefficient_matrix(coefficients, owner)
        norm = torch.linalg.vector_norm(C, dim=1, keepdim=True)
        dense = torch.where(norm > 0, C / norm, 0.0)
        n = dense.shape[0]

        def cosines(rows: slice) -> torch.Tensor:
            return dense[rows] @ dense.T
    else:
        n = sparse.shape[0]
        lengths = np.sqrt(sparse.multiply(sparse).sum(axis=1))
        scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        unit = sparse.copy()
        unit.data *= np.repeat(scale, np.diff(unit.indptr))
        transposed = unit.T.tocsr()

        def cosines(rows: slice) -> torch.Tensor:
            return torch.from_numpy((unit[rows] @ transposed).toarray())

    parts = []
    for start in range(0, n, step := max(1, _BLOCK_ENTRIES // n)):
        values, indices = dsc_ext.topk_coefficients(
            cosines(slice(start, start + step)), min(k, n - 1), signed=True, row_offset=start
        )
        parts.append(torch.where(values > 0, indices, -1).cpu())
    return torch.cat(parts)


def _blas_threads(n: int) -> threadpool_limits:
    # Below this size a second thread gains little, waits long on a busy machine, and changes the last bits.
    return threadpool_limits(limits=1 if n <= _ONE_THREAD_LIMIT else None)


def _eigh(S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Full eigendecomposition of a symmetric matrix, ascending; S is destroyed."""
    if S.device.type != "cpu":
        values, vectors = torch.linalg.eigh(S)
        return values, vectors
    with _blas_threads(S.shape[0]):
        # The transpose of a symmetric matrix is itself, in the column-major order that saves LAPACK a copy.
        pair = scipy.linalg.eigh(S.numpy().T, driver="evd", overwrite_a=True, check_finite=False)
    return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])


def post_affinity(
    coefficients: Coefficients,
    n_clusters: int,
    *,
    threshold: float = 0.04,
    subspace_dim: int = 12,
    power: float = 8.0,
    unit_diagonal: bool = False,
) -> Array:
    """DSC-Net's post-processing: a dense (N, N) affinity in [0, 1] with zero entries where rows are orthogonal.

    1. thrC: per row keep the largest ``|c|`` whose sum exceeds `threshold` times the row's l1 norm (>= 1 keeps all);
    2. ``S = (C + Cᵀ)/2``, its diagonal set to 1 if `unit_diagonal`;
    3. the ``r = min(subspace_dim·n_clusters + 1, N)`` eigenpairs of S largest in ``|λ|``;
    4. rows of ``U |Λ|^½`` scaled to unit l2 norm; their inner products, negatives set to 0, raised to `power`, divided
       by the maximum.

    thrC works on rows here: row i of C holds the coefficients of sample i (``Ẑ = C Z``). The released code of DSC-Net
    thresholds columns although it also multiplies ``C Z``; trained without a constraint its C is nearly symmetric, so
    the two differ little, and rows are what the method means. A sample whose coefficients are all zero keeps a zero
    row. A sparse C is made dense. Deterministic: a full eigendecomposition, no start vector. It runs on the tensor's
    device, in float64 up to N = 4096 and in float32 above; cost ~9 N³ + 2 N² r operations, peak memory about 5 N²
    words.

    Returns float64 (N <= 4096) or float32. Source: Ji et al., NIPS 2017, released code (thrC, post_proC).
    """
    owner = "post_affinity"
    C = _coefficient_matrix(coefficients, owner)
    n = C.shape[0]
    _check_count(owner, "n_clusters", n_clusters, n)
    if not (isinstance(threshold, numbers.Real) and threshold > 0):
        raise ValueError(f"{owner}: threshold must be a number > 0 (>= 1 keeps all), got {threshold!r}")
    if not isinstance(subspace_dim, numbers.Integral) or subspace_dim < 1:
        raise ValueError(f"{owner}: subspace_dim must be an integer >= 1, got {subspace_dim!r}")
    if not (isinstance(power, numbers.Real) and 0 < power < math.inf):
        raise ValueError(f"{owner}: power must be a finite number > 0, got {power!r}")

    kept = dsc_ext.threshold_coefficients(C, float(threshold))
    S = kept.to(torch.float64 if n <= _POST_FLOAT64_LIMIT else torch.float32)
    S = (S + S.T).div_(2)
    del kept  # N² words are worth a line
    if unit_diagonal:
        S.fill_diagonal_(1.0)
    unused = ~(S != 0).any(dim=1)
    values, vectors = _eigh(S)
    rank = min(int(subspace_dim) * int(n_clusters) + 1, n)
    order = values.abs().argsort(descending=True, stable=True)[:rank]
    strength = values.abs()[order]
    # Directions at the level of rounding would be blown up to unit length by the row scaling below.
    order = order[strength > strength[:1] * n * torch.finfo(S.dtype).eps]
    U = vectors[:, order] * values.abs()[order].sqrt()
    del S, vectors
    U[unused] = 0.0
    norm = torch.linalg.vector_norm(U, dim=1, keepdim=True)
    U = torch.where(norm > 0, U / norm, torch.zeros_like(U))
    W = U @ U.T
    W.clamp_(min=0.0)
    if power != 1:
        W.pow_(float(power))
    peak = W.max()
    if peak > 0:
        W /= peak
    # A matrix product need not be symmetric to the last bit.
    return torch.maximum(W, W.T).cpu().numpy()


# --------------------------------------------------------------------------------------------------------------------
# Spectral clustering


def _check_count(owner: str, name: str, value: object, n: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{owner}: {name} must be an integer, got {value!r}")
    if not 1 <= int(value) <= n:
        raise ValueError(f"{owner}: {name} must be between 1 and the number of samples {n}, got {value}")


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
        with _blas_threads(n):
            values, vectors = scipy.linalg.eigh(
                S, subset_by_index=[n - k, n - 1], driver="evr", overwrite_a=True, check_finite=False
            )
        # Bisection with inverse iteration may return parallel vectors for eigenvalues that agree to the last bit.
        if np.abs(vectors.T @ vectors - np.eye(k)).max() < _RESIDUAL_TOLERANCE:
            return values[::-1], vectors[:, ::-1]
        S = build()
    with _blas_threads(n):
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
    _check_count("spectral_embedding", "n_eigenvectors", n_eigenvectors, W.shape[0])
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
    _check_count(owner, "n_clusters", n_clusters, n)
    K = int(n_clusters)
    if assign_labels not in ASSIGN_LABELS:
        raise ValueError(f"{owner}: assign_labels must be one of {ASSIGN_LABELS}, got {assign_labels!r}")
    dim = K if n_eigenvectors is None else n_eigenvectors
    _check_count(owner, "n_eigenvectors", dim, n)
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
