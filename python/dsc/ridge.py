"""Ridge self-expression in closed form: the C with a zero diagonal that least squares and ``λ‖C‖²`` agree on.

Owns the normalisation of rows and the one inverse, for the baseline, which keeps the graph alone, and for methods that
start from all of C. Source: least-squares regression, Lu et al., ECCV 2012, with a zero diagonal. With
``P = (Z Zᵀ + λI)⁻¹`` row i of the minimiser of ``‖Z − CZ‖² + λ‖C‖²``, ``c_ii = 0``, is ``−P_ij / P_ii``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

Array = npt.NDArray[Any]


def unit_rows(X: Array) -> Array:
    """Rows of X (N, f) scaled to unit l2 norm, centred by their mean, scaled again; zero rows stay zero."""

    def scaled(Y: Array) -> Array:
        norm = np.linalg.norm(Y, axis=1, keepdims=True)
        return np.divide(Y, norm, out=np.zeros_like(Y), where=norm > 0)

    Y = scaled(X)
    Y -= Y.mean(axis=0)
    return scaled(Y)


def ridge_inverse(Z: Array, lam: float) -> tuple[Array, Callable[[slice], Array]]:
    """Of P, for rows Z (N, f), its diagonal (N,) and a function from a block of rows to theirs of −P, off the diagonal.

    What that function gives on the diagonal means nothing. O(N f²) (O(N³) where f >= N), then O(f) an entry.
    """
    n, f = Z.shape
    if f < n:
        # Woodbury: P = (I − Z (ZᵀZ + λI)⁻¹ Zᵀ)/λ, one f×f inverse and blocks of rows.
        gram = (Z.T @ Z).astype(np.float64) + lam * np.eye(f)
        left = np.asarray(scipy.linalg.solve(gram, Z.T, assume_a="pos").T, dtype=Z.dtype)
        return (1.0 - np.einsum("ij,ij->i", left, Z)) / lam, lambda block: left[block] @ Z.T / lam
    P = np.linalg.inv((Z @ Z.T).astype(np.float64) + lam * np.eye(n))
    return np.diag(P), lambda block: -P[block]


def ridge_coefficients(Z: Array, lam: float) -> Array:
    """C (N, N) in Z's dtype, the minimiser for rows Z (N, f) as they are: row i the coefficients of sample i."""
    n = Z.shape[0]
    diagonal, off_diagonal_of = ridge_inverse(Z, lam)
    C = np.empty((n, n), dtype=Z.dtype)
    for start in range(0, n, 1024):
        block = slice(start, min(start + 1024, n))
        C[block] = off_diagonal_of(block) / diagonal[block, None]
    np.fill_diagonal(C, 0.0)
    return C
