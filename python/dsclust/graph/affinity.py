"""From a coefficient matrix to an affinity graph: four ways.

Owns plain ``(|C| + |C|ᵀ)/2``, the largest few entries of a row, the nearest rows of C (SENet, CVPR 2021) and the
post-processing of DSC-Net (Ji et al., NIPS 2017: thrC, rank ``d·K + 1``, angular similarity to a power). C is dense, or
CSR where a row has few entries, and then no N×N array is made but by "post". Thresholding and symmetrizing are
`dsc_ext` ops.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse
import torch
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

import dsc_ext
from dsclust.names import Affinity, words
from dsclust.samples import Array

AFFINITIES = words(Affinity)
# Entries of a row that the sparse graph keeps.
STRONGEST = 5
# Rows of C that are joined to each row, as published for SENet.
NEIGHBORS = 3
# Scores of rows with all rows that exist at a time.
BLOCK_ENTRIES = 2**22
# DSC-Net's decomposition runs in float64 up to this size; the full spectrum costs ~9 N³ operations and 4 N² words.
POST_FLOAT64_LIMIT = 4096
_ONE_THREAD_LIMIT = 2048

AffinityMatrix: TypeAlias = Any  # (N, N) ndarray or scipy.sparse.csr_array; SciPy ships no types
Coefficients: TypeAlias = Any  # (N, N) torch.Tensor, dense or CSR, ndarray or SciPy sparse


def check_count(owner: str, name: str, value: object, n: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{owner}: {name} must be an integer, got {value!r}")
    if not 1 <= int(value) <= n:
        raise ValueError(f"{owner}: {name} must be between 1 and the number of samples {n}, got {value}")


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
    """Return a `torch.sparse_csr` tensor as SciPy's, on the CPU with sorted columns, in 32-bit indices where they
    do.
    """
    kind = scipy.sparse.get_index_dtype(maxval=max(*C.shape, C.values().numel()))
    column, crow = (part.cpu().numpy().astype(kind) for part in (C.col_indices(), C.crow_indices()))
    found = scipy.sparse.csr_array((C.values().cpu().numpy(), column, crow), shape=tuple(C.shape))
    return found if found.has_sorted_indices else found.sorted_indices()  # a copy: the values may be the tensor's


def _torch_csr(C: scipy.sparse.csr_array) -> torch.Tensor:
    crow, column, values = (torch.from_numpy(part) for part in (C.indptr, C.indices, C.data))
    return torch.sparse_csr_tensor(crow, column, values, C.shape, check_invariants=False)


def _sparse(coefficients: Coefficients, owner: str) -> scipy.sparse.csr_array | None:
    """Return sparse coefficients, checked; None for dense ones."""
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


def plain_affinity(coefficients: Coefficients) -> AffinityMatrix:
    """Return ``W = (|C| + |C|ᵀ)/2`` (N, N) in C's dtype, dense for a dense C and CSR for a sparse one.

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


def largest_graph(values: torch.Tensor, indices: torch.Tensor) -> scipy.sparse.csr_array:
    """Return ``W = (A + Aᵀ)/2`` (N, N) CSR of A's entries `values` (N, k) in the columns `indices`, negatives set to
    0.
    """
    return scipy_csr(dsc_ext.symmetrize_affinity(values.clamp_min(0.0), indices))


def sparse_affinity(coefficients: Coefficients) -> scipy.sparse.csr_array:
    """Return the 5 largest entries per row of ``C + Cᵀ``, negatives set to 0, the mean with its transpose: (N, N) CSR.

    What a sample shares with all others at once, a common mean above all, drowns in few edges. The graph is that of
    `dsclust.baselines.ridge_labels`, whatever C is. The diagonal is left out. Costs O(N²); memory O(N) beyond blocks of
    rows; for a sparse C both O(nnz). Raises as :func:`plain_affinity`.
    """
    sparse = _sparse(coefficients, "sparse_affinity")
    if sparse is not None:
        both = (sparse + sparse.T).tocsr()
        both.setdiag(0.0)
        return largest_graph(*_largest_of_rows(both, STRONGEST))
    C = _coefficient_matrix(coefficients, "sparse_affinity")
    n = C.shape[0]
    parts = []
    for start in range(0, n, step := max(1, BLOCK_ENTRIES // n)):
        rows = slice(start, min(start + step, n))
        parts.append(
            dsc_ext.topk_coefficients(C[rows] + C[:, rows].T, min(STRONGEST, n - 1), signed=True, row_offset=start)
        )
    values, indices = zip(*parts, strict=True)
    return largest_graph(torch.cat(values).cpu(), torch.cat(indices).cpu())


def _largest_of_rows(A: scipy.sparse.csr_array, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (N, k): of each row the k largest positive stored entries, the largest first, then 0; their columns,
    then -1.
    """
    n = A.shape[0]
    counts = np.diff(A.indptr)
    values = torch.zeros(n, k, dtype=torch.from_numpy(A.data[:0]).dtype)
    indices = torch.full((n, k), -1)
    # Rows of about the same length together, padded to the longest of them.
    order = np.argsort(counts, kind="stable")
    start = 0
    while start < n:
        stop = start + 1
        while stop < n and (stop - start + 1) * max(counts[order[stop]], 1) <= BLOCK_ENTRIES:
            stop += 1
        rows = order[start:stop]
        width = int(counts[rows[-1]])
        inside = np.arange(width) < counts[rows, None]
        entry = np.where(inside, A.indptr[rows, None] + np.arange(width), 0)
        if width and A.nnz:
            padded = torch.from_numpy(np.where(inside, A.data[entry], 0.0))
            found, at = dsc_ext.topk_coefficients(padded, k, signed=True, zero_diagonal=False)
            column = np.take_along_axis(A.indices[entry], at.clamp_min(0).numpy(), axis=1).astype(np.int64)
            values[rows] = found.clamp_min(0.0)
            indices[rows] = torch.where(found > 0, torch.from_numpy(column), -1)
        start = stop
    return values, indices


def neighbor_affinity(
    coefficients: Coefficients, n_clusters: int = 1, n_neighbors: int = NEIGHBORS
) -> scipy.sparse.csr_array:
    """Return ``W = (A + Aᵀ)/2``, A_ij = 1 for the `n_neighbors` rows j of C with the largest cosine to row i: float32
    CSR.

    Two samples are alike if they are combined of the same samples with the same signs. Rows with a cosine of 0 or less
    are not joined, so that a sample without coefficients has no edge. Ours: where the graph falls into more than
    `n_clusters` pieces (samples without an edge apart), each row has as many neighbors as it takes to make them fewer,
    at most four times as many as asked for.

    coefficients: as for :func:`plain_affinity`. Costs 2 N³ operations for a dense C, for a sparse one twice the sum
    over its columns of their entries squared, 2 N k² or some times as many; memory O(nnz) and 2²² cosines at a time.
    Deterministic, ties to the lowest j. Source: Zhang et al., CVPR 2021, released code (nearest_neighbor, symmetric).
    """
    owner = "neighbor_affinity"
    if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, numbers.Integral) or n_neighbors < 1:
        raise ValueError(f"{owner}: n_neighbors must be an integer >= 1, got {n_neighbors!r}")
    k = int(n_neighbors)
    W, pieces = _joined(_nearest_rows(coefficients, k, owner))
    if pieces > n_clusters:
        found = _nearest_rows(coefficients, 4 * k, owner)
        while pieces > n_clusters and k < found.shape[1]:
            k += 1
            W, pieces = _joined(found[:, :k].contiguous())
    return W


def _joined(near: torch.Tensor) -> tuple[scipy.sparse.csr_array, int]:
    """Return the graph of neighbors (N, k), and how many pieces of two samples and more it has."""
    W = scipy_csr(dsc_ext.symmetrize_affinity(torch.ones(near.shape), near))
    return W, int((np.bincount(connected_components(W, directed=False)[1]) > 1).sum())


def _nearest_rows(coefficients: Coefficients, k: int, owner: str) -> torch.Tensor:
    """Return (N, at most k): of each row of C the rows of largest positive cosine, the largest first, then -1."""
    sparse = _sparse(coefficients, owner)
    if sparse is not None:
        return _nearest_sparse_rows(sparse, min(k, sparse.shape[0] - 1))
    C = _coefficient_matrix(coefficients, owner)
    norm = torch.linalg.vector_norm(C, dim=1, keepdim=True)
    unit = torch.where(norm > 0, C / norm, 0.0)
    n = C.shape[0]
    values, indices = dsc_ext.topk_coefficients((unit, unit), min(k, n - 1), signed=True)
    return torch.where(values > 0, indices, -1).cpu()


def _nearest_sparse_rows(C: scipy.sparse.csr_array, k: int) -> torch.Tensor:
    n = C.shape[0]
    lengths = np.sqrt(C.multiply(C).sum(axis=1))
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    unit = C.copy()
    unit.data *= np.repeat(scale, np.diff(unit.indptr)).astype(unit.dtype)
    transposed = unit.T.tocsr()
    # Entries of a row of the product, at most: what the columns of its own entries hold.
    work = np.add.reduceat(np.append(np.diff(transposed.indptr)[unit.indices], 0), unit.indptr[:-1])
    work = np.minimum(np.where(np.diff(unit.indptr) > 0, work, 0), n)
    # Blocks of rows whose product is bounded.
    cuts = np.flatnonzero(np.diff(np.cumsum(np.append(0, work)) // BLOCK_ENTRIES))
    parts = []
    for rows in np.split(np.arange(n), cuts):
        if rows.size == 0:
            continue
        cosine = unit[rows] @ transposed
        cosine.data[cosine.indices == np.repeat(rows, np.diff(cosine.indptr))] = 0.0
        parts.append(_largest_of_rows(cosine, k)[1])
    return torch.cat(parts)


def coefficient_affinity(
    coefficients: Coefficients,
    n_clusters: int,
    *,
    affinity: str = "post",
    threshold: float = 0.04,
    subspace_dim: int = 12,
    power: float = 8.0,
    unit_diagonal: bool = False,
    n_neighbors: int = NEIGHBORS,
) -> AffinityMatrix:
    """Return the graph (N, N) of coefficients (N, N), dense or sparse, in one of four ways.

    affinity: ``"post"`` (:func:`post_affinity`, with `threshold`, `subspace_dim`, `power`, `unit_diagonal`),
    ``"plain"`` (:func:`plain_affinity`), ``"sparse"`` (:func:`sparse_affinity`) or ``"neighbors"``
    (:func:`neighbor_affinity`, with `n_neighbors`). The last two give a CSR matrix, and all but the first keep a
    sparse C sparse.
    """
    if affinity == "post":
        return post_affinity(
            coefficients,
            n_clusters,
            threshold=threshold,
            subspace_dim=subspace_dim,
            power=power,
            unit_diagonal=unit_diagonal,
        )
    if affinity == "plain":
        return plain_affinity(coefficients)
    if affinity == "sparse":
        return sparse_affinity(coefficients)
    if affinity == "neighbors":
        return neighbor_affinity(coefficients, n_clusters, n_neighbors)
    raise ValueError(f"coefficient_affinity: affinity must be one of {AFFINITIES}, got {affinity!r}")


def blas_threads(n: int) -> threadpool_limits:
    # Below this size a second thread gains little, waits long on a busy machine, and changes the last bits.
    return threadpool_limits(limits=1 if n <= _ONE_THREAD_LIMIT else None)


def _eigh(S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the full eigendecomposition of a symmetric matrix, ascending; S is destroyed."""
    if S.device.type != "cpu":
        values, vectors = torch.linalg.eigh(S)
        return values, vectors
    with blas_threads(S.shape[0]):
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
    """Return DSC-Net's post-processing of C: a dense (N, N) affinity in [0, 1] with zero entries where rows are
    orthogonal.

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
    check_count(owner, "n_clusters", n_clusters, n)
    if not (isinstance(threshold, numbers.Real) and threshold > 0):
        raise ValueError(f"{owner}: threshold must be a number > 0 (>= 1 keeps all), got {threshold!r}")
    if not isinstance(subspace_dim, numbers.Integral) or subspace_dim < 1:
        raise ValueError(f"{owner}: subspace_dim must be an integer >= 1, got {subspace_dim!r}")
    if not (isinstance(power, numbers.Real) and 0 < power < math.inf):
        raise ValueError(f"{owner}: power must be a finite number > 0, got {power!r}")

    kept = dsc_ext.threshold_coefficients(C, float(threshold))
    S = kept.to(torch.float64 if n <= POST_FLOAT64_LIMIT else torch.float32)
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
