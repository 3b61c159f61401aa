"""Ridge self-expression in closed form: the C with a zero diagonal that least squares and ``λ‖C‖²`` agree on.

Owns the normalization of rows and the one solve. Source: least-squares regression, Lu et al., ECCV 2012, with a zero
diagonal. ``S = Zᵀ (Z Zᵀ + λI)⁻¹`` holds the coefficients of any row q on those of Z, ``q S``. With ``H = Z S``, in
which a row may use itself, row i of the minimizer of ``‖Z − CZ‖² + λ‖C‖²`` under ``c_ii = 0`` is ``H_ij / (1 − H_ii)``:
the formula of leaving one out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dsc_ext import topk_coefficients

# Entries of a temporary matrix: enough rows at a time that what is read for each lot of them anew is cheap.
BLOCK_ENTRIES = 2**22


def unit_rows(X: Tensor, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return rows of X (N, f) scaled to unit l2 norm, centered, scaled again; and the mean (f,) by which they were
    centered.

    mean: that of other rows, to treat new ones as those; by default these rows' own. A row of zeros, and one that
    centering leaves nothing of but rounding, is zero in the end: it has no direction.
    """
    length = torch.linalg.vector_norm(X, dim=1, keepdim=True)
    limits = torch.finfo(X.dtype)
    lost = (length < limits.tiny**0.4) | (length > limits.max**0.4)
    if lost.any():  # squares of such entries underflow or overflow: by the largest of each row first
        peak = X.abs().amax(dim=1, keepdim=True)
        X = torch.where(lost & (peak > 0), X / peak, X)
        length = torch.linalg.vector_norm(X, dim=1, keepdim=True)
    rows = X / torch.where(length > 0, length, 1.0)
    if mean is None:
        mean = rows.mean(dim=0)
    rows -= mean
    rest = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    rows /= torch.where((length > 0) & (rest > 16 * torch.finfo(X.dtype).eps), rest, torch.inf)
    return rows, mean


def ridge_solution(Z: Tensor, lam: float) -> Tensor:
    """Return S (f, N) in Z's dtype for rows Z (N, f), λ > 0; by Cholesky in float64. Its transpose is contiguous.

    Costs O(N f min(N, f)) time; memory that of S, and in float64 the square of the smaller of N and f. Raises
    ValueError where λ is lost in the rounding of a singular Gram matrix.
    """
    n, f = Z.shape
    if n <= f:
        wide = Z.double()
        return torch.cholesky_solve(wide, _factor(wide @ wide.T, lam)).to(Z).contiguous().T
    # Zᵀ (Z Zᵀ + λI)⁻¹ = (Zᵀ Z + λI)⁻¹ Zᵀ, by parts: Z in float64 would be twice as large as Z.
    rows = max(1, BLOCK_ENTRIES // (4 * f))
    gram = torch.zeros(f, f, dtype=torch.float64, device=Z.device)
    for part in Z.split(rows):
        gram.addmm_(part.T.double(), part.double())
    factor = _factor(gram, lam)
    solution = torch.empty_like(Z, memory_format=torch.contiguous_format)
    for part, solved in zip(Z.split(rows), solution.split(rows), strict=True):
        solved.copy_(torch.cholesky_solve(part.T.double(), factor).T)
    return solution.T


def _factor(gram: Tensor, lam: float) -> Tensor:
    gram.diagonal().add_(lam)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise ValueError(f"lam: expected a ridge that rows as dependent as these can be solved with, got {lam:g}")
    return factor


def ridge_coefficients(Z: Tensor, lam: float) -> Tensor:
    """Return C (N, N) in Z's dtype, the minimizer for rows Z (N, f) as they are: row i the coefficients of sample i."""
    C = Z @ ridge_solution(Z, lam)
    return (C / (1.0 - C.diagonal()[:, None])).fill_diagonal_(0.0)


def sparse_ridge(Z: Tensor, lam: float, k: int) -> Tensor:
    """Return C (N, N) as CSR where it matters to the graph of ``C + Cᵀ``: the k largest positive entries of each of its
    rows.

    For rows Z (N, f). c_ij and c_ji are kept where ``c_ij + c_ji`` is among the k largest of row i or of row j, so that
    the k largest of each row of ``C + Cᵀ`` are those of the whole matrix; up to 2k entries a row in the mean. Costs
    N² f / 2 multiplications beside the solve; memory O(N f). Ties to the lowest j.
    """
    n = Z.shape[0]
    score, column, b = largest_pairs(Z, lam, k)
    row = torch.arange(n, device=Z.device)[:, None].expand(n, k)
    kept = score > 0
    i, j, score = row[kept], column[kept], score[kept]
    h = score / (b[i] + b[j])
    # Both c_ij and c_ji; a pair that both rows chose comes twice, up to rounding the same.
    place, first = torch.unique(torch.cat([i * n + j, j * n + i]), return_inverse=True)
    values = Z.new_empty(place.numel()).scatter_(0, first, torch.cat([h * b[i], h * b[j]]))
    counts = torch.bincount(place // n, minlength=n)
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return torch.sparse_csr_tensor(crow, place % n, values, (n, n), check_invariants=False)


def largest_pairs(Z: Tensor, lam: float, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k largest positive ``c_ij + c_ji``, j ≠ i, of each row i, their j, both (N, k), padded by 0, and b
    (N,).

    Of the minimizer for rows Z (N, f), with ``c_ij + c_ji = (b_i + b_j) h_ij``.
    """
    S = ridge_solution(Z, lam).T
    own = torch.einsum("if,if->i", Z, S)
    b = 1.0 / (1.0 - own)  # C = diag(b) H off the diagonal, and H is symmetric
    return *_look_through(Z, S, b, k), b


def _look_through(Z: Tensor, S: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return of each row the k largest positive ``c_ij + c_ji = (b_i + b_j) h_ij``, j ≠ i, and their j (N, k); 0 pads.

    A block of pairs is computed once, and its rows and its columns look among them: half of N² products.
    """
    n = Z.shape[0]
    score, column = Z.new_zeros(n, k), torch.full((n, k), -1, device=Z.device)
    side = max(1, math.isqrt(BLOCK_ENTRIES))
    parts = [slice(start, min(start + side, n)) for start in range(0, n, side)]

    def look(rows: slice, columns: slice, both: Tensor) -> None:
        """Rows come by their columns in rising order, so that of equals the lowest j stays."""
        values, j = topk_coefficients(both, k, signed=True, zero_diagonal=rows is columns)
        values, j = torch.cat([score[rows], values], 1), torch.cat([column[rows], j + columns.start], 1)
        score[rows], chosen = topk_coefficients(values, k, signed=True, zero_diagonal=False)
        column[rows] = j.gather(1, chosen)

    for first, rows in enumerate(parts):
        for columns in parts[first:]:
            both = (S[rows] @ Z[columns].T).mul_(b[rows, None] + b[columns])
            look(rows, columns, both)
            if rows is not columns:
                look(columns, rows, both.T.contiguous())
    return score, column
