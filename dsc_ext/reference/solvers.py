"""Solvers on a support: ridge, elastic net and orthogonal matching pursuit among the k atoms of each row."""

from __future__ import annotations

import torch
from torch import Tensor

from dsc_ext.reference.sparse import gathered


def products_on_support(X: Tensor, indices: Tensor, Q: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return of each row's atoms and target the products that a solver needs.

    They are the Gram matrix G (B, k, k), products g (B, k), the target's square (B,), and which entries count (B, k).
    What does not count is a zero atom.
    """
    own = torch.arange(X.shape[0], device=X.device)[:, None] if Q is None else -1
    counts = (indices >= 0) & (indices != own)
    atoms = gathered(X, None, None, indices.masked_fill(~counts, X.shape[0]), X.dtype)
    targets = X if Q is None else Q
    return atoms @ atoms.mT, (atoms * targets[:, None, :]).sum(2), targets.square().sum(1), counts


def on_support_rounding(k: int, dtype: torch.dtype) -> float:
    """Return the share of an atom's square below which nothing but rounding is left of it, with k atoms a row."""
    return (10 + k) * torch.finfo(dtype).eps


def solve_on_active(G: Tensor, active: Tensor, shift: Tensor | float, right: Tensor) -> Tensor:
    """Solve (G_AA + shift I) c = right_A, c zero off the active set A (B, k).

    right is (B, k), shift one number or (B,). NaN in rows whose system is singular in this precision.
    """
    both = active[:, :, None] & active[:, None, :]
    diagonal = torch.where(active, torch.as_tensor(shift, dtype=G.dtype, device=G.device).reshape(-1, 1), 1.0)
    system = G.masked_fill(~both, 0.0) + diagonal.diag_embed()
    # By Cholesky: PyTorch 2.13's batched LU (with MKL, on two threads) has been seen to fail and to hang.
    factor, failed = torch.linalg.cholesky_ex(system)
    found = torch.cholesky_solve(right.masked_fill(~active, 0.0)[..., None], factor)[..., 0]
    return found.masked_fill(~active, 0.0).masked_fill(active & (failed > 0)[:, None], torch.nan)


def _visible(c: Tensor, G: Tensor, square: Tensor, counts: Tensor) -> Tensor:
    """Return c with NaN wherever a coefficient is, in rows with an atom or a target whose square is not finite."""
    finite = G.diagonal(dim1=1, dim2=2).isfinite().all(1) & square.isfinite()
    return c.masked_fill(counts & ~finite[:, None], torch.nan)


def ridge_shift(G: Tensor, lam: float) -> Tensor:
    """Return (B,) λ, or what rounding leaves of a smaller one."""
    if G.shape[1] == 0:
        return G.new_full(G.shape[:1], lam)
    most = G.detach().diagonal(dim1=1, dim2=2).amax(1).nan_to_num(0.0, 0.0)
    return (on_support_rounding(G.shape[1], G.dtype) * most).clamp(min=lam)


def on_support_adjoint(G: Tensor, X: Tensor, indices: Tensor, active: Tensor, shift: float, floored: bool) -> Tensor:
    """Return (B, k) (X_A X_Aᵀ + shift I)⁻¹ G_A, zero off the active entries A (B, k).

    floored: with ridge's least shift.
    """
    atoms = gathered(X, None, None, indices.masked_fill(~active, X.shape[0]), X.dtype)
    gram = atoms @ atoms.mT
    return solve_on_active(gram, active, ridge_shift(gram, shift) if floored else shift, G)


def ridge_on_support(X: Tensor, indices: Tensor, Q: Tensor | None, lam: float) -> Tensor:
    """Return (B, k) argmin_c ‖q_b − Σ_s c_s x_(i_bs)‖² + λ ‖c‖² for every row b."""
    G, g, square, counts = products_on_support(X, indices, Q)
    return _visible(solve_on_active(G, counts, ridge_shift(G, lam), g), G, square, counts)


def elastic_net_on_support(X: Tensor, indices: Tensor, Q: Tensor | None, l1: float, l2: float) -> Tensor:
    """Return (B, k) argmin_c ½ ‖q_b − Σ_s c_s x_(i_bs)‖² + λ1 ‖c‖₁ + ½ λ2 ‖c‖² for every row b.

    The solution's signs come by homotopy, the rest in closed form.
    """
    G, g, square, counts = products_on_support(X, indices, Q)
    sign, level = lasso_signs(G.detach(), g.detach(), counts, l1, l2)
    return _visible(solve_on_active(G, sign != 0, l2, g - level[:, None] * sign), G, square, counts)


@torch.no_grad()
def lasso_signs(G: Tensor, g: Tensor, counts: Tensor, l1: float, l2: float) -> tuple[Tensor, Tensor]:
    """Find the solution's signs (B, k) by homotopy, and the λ at which each row ends, (B,).

    As λ falls from infinity to λ1, atoms join the active set where their correlation with the residual reaches ±λ, and
    leave it where their coefficient comes back to zero. A row ends at λ1, unless it takes more than 50 (k + 1) events.
    """
    B, k = g.shape
    sign, gone, spanned = torch.zeros_like(g), torch.zeros_like(g), torch.zeros_like(counts)
    level, going = g.new_full((B,), torch.inf), torch.zeros(B, dtype=torch.bool, device=g.device)
    H = G + l2 * torch.eye(k, dtype=G.dtype, device=G.device)
    rows = torch.arange(B, device=g.device)
    for _ in range(50 * (k + 1) if k else 0):
        active = sign != 0
        u, w = solve_on_active(H, active, 0.0, g), solve_on_active(H, active, 0.0, sign)
        residual, slope = g - (H @ u[..., None])[..., 0], (H @ w[..., None])[..., 0]
        above = torch.where((1 - slope > 0) & (gone <= 0), residual / (1 - slope), -1.0)
        below = torch.where((1 + slope > 0) & (gone >= 0), -residual / (1 + slope), -1.0)
        joins = torch.maximum(above, below).masked_fill(active | spanned | ~counts, -1.0)
        leaves = torch.where(sign * w < 0, u / w, -1.0)
        top, which = torch.minimum(torch.cat((leaves, joins), dim=1), level[:, None]).max(1)
        going = top > l1  # False of NaN too
        if not going.any():
            break
        level = torch.where(going, top, level)
        leaving, joining = going & (which < k), going & (which >= k)
        at = which % k
        entering = torch.zeros_like(active)
        entering[rows, at] = joining
        inside = solve_on_active(H, active, 0.0, H[rows, at])
        own = H[rows, at, at]
        fits = own - (H[rows, at] * inside).sum(1) > on_support_rounding(k, g.dtype) * own
        spanned |= entering & ~fits[:, None]
        entering &= fits[:, None]
        left = torch.zeros_like(active)
        left[rows, at] = leaving
        gone = torch.where(left, sign, torch.where(entering.any(1, keepdim=True) | leaving[:, None], 0.0, gone))
        spanned &= ~leaving[:, None]
        sign = torch.where(left, 0.0, torch.where(entering, torch.where(above >= below, 1.0, -1.0), sign))
    return sign, torch.where(going, level, l1)


def omp_on_support(X: Tensor, indices: Tensor, Q: Tensor | None, n_nonzero: int, tolerance: float) -> Tensor:
    """Write each row by orthogonal matching pursuit among its atoms, (B, k).

    The atom of the largest |⟨x, residual⟩| joins, ties to the first, until there are n_nonzero or the squared residual
    is at most tolerance · ‖q‖².
    """
    G, g, square, counts = products_on_support(X, indices, Q)
    active = pursued(G.detach(), g.detach(), square.detach(), counts, n_nonzero, tolerance)
    return _visible(solve_on_active(G, active, 0.0, g), G, square, counts)


@torch.no_grad()
def pursued(G: Tensor, g: Tensor, square: Tensor, counts: Tensor, n_nonzero: int, tolerance: float) -> Tensor:
    """Return (B, k) which atoms orthogonal matching pursuit takes."""
    k = g.shape[1]
    rounding = on_support_rounding(k, g.dtype)
    active, free = torch.zeros_like(counts), counts.clone()
    rows = torch.arange(g.shape[0], device=g.device)
    for _ in range(k):  # each of them takes an atom, or passes over one for good
        c = solve_on_active(G, active, 0.0, g)
        residual = (g - (G @ c[..., None])[..., 0]).abs().masked_fill(~free, 0.0)
        size, at = residual.max(1)
        going = (square - (c * g).sum(1) > max(tolerance, rounding) * square) & (active.sum(1) < n_nonzero) & (size > 0)
        if not going.any():
            break
        own = G[rows, at, at]
        inside = solve_on_active(G, active, 0.0, G[rows, at])
        free[rows, at] &= ~going
        active[rows, at] |= going & (own - (G[rows, at] * inside).sum(1) > rounding * own)
    return active
