"""Plain PyTorch twin of every op: the specification, the test oracle, and the fallback where there is no kernel.

Nothing here is clever. Each function says in a few tensor operations what the op of the same name computes, is
differentiable by autograd to any order, and runs on every device and dtype PyTorch has. It may copy what a kernel would
not (the batch's rows of ``C``, the bank with live rows in place), which is the price of being readable.
"""

from __future__ import annotations

import torch
from torch import Tensor


def last_occurrence(rows: Tensor, n: int) -> Tensor:
    """(B,) int64: for each position the last one holding the same row (of ``n``), the one duplicates resolve to."""
    position = torch.arange(rows.shape[0], device=rows.device)
    return rows.new_full((n,), -1).scatter_reduce(0, rows, position, "amax")[rows]


def is_last_occurrence(rows: Tensor, n: int) -> Tensor:
    """(B,) bool: whether position ``b`` holds the last occurrence of ``rows[b]``."""
    return last_occurrence(rows, n) == torch.arange(rows.shape[0], device=rows.device)


def splice(M: Tensor, rows: Tensor, Z: Tensor | None) -> Tensor:
    """The bank ``M`` (N, d) with rows ``rows`` replaced by the live ``Z`` (B, d); the last duplicate wins."""
    if Z is None:
        return M
    keep = is_last_occurrence(rows, M.shape[0])
    return M.index_copy(0, rows[keep], Z[keep])


def without_diagonal(C_rows: Tensor, rows: Tensor) -> Tensor:
    """``C_rows`` (B, N) with the entry of each row's own sample, column ``rows[b]``, set to zero."""
    columns = torch.arange(C_rows.shape[1], device=C_rows.device)
    return C_rows.masked_fill(columns[None, :] == rows[:, None], 0.0)


def self_expression(
    C: Tensor,
    M: Tensor,
    rows: Tensor | None = None,
    Z: Tensor | None = None,
    zero_diagonal: bool = True,
    row_offset: int = 0,
) -> Tensor:
    """Ẑ_b = Σ_j C[rows_b, j] M'_j over j ≠ rows_b, with M' the bank in which rows ``rows`` are the live ``Z``."""
    if rows is None:
        rows = torch.arange(row_offset, row_offset + C.shape[0], device=C.device)
    C_rows = C.index_select(0, rows - row_offset)
    if zero_diagonal:
        C_rows = without_diagonal(C_rows, rows)
    return C_rows @ splice(M, rows, Z)


def inner_product_self_expression(
    Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor | None = None, scale: float = 1.0, rows: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Ẑ = C V, ‖c_b‖₁ and ‖c_b‖₂² with C = scale · φ(Q Kᵀ), zero in column ``rows[b]`` of row b where rows are given;
    φ(s) = sign(s) max(|s| − threshold, 0), or the identity. 16-bit numbers are computed with in float32.
    """
    compute = torch.float32 if Q.dtype.itemsize == 2 else Q.dtype
    C = Q.to(compute) @ K.to(compute).T
    if threshold is not None:
        C = C.sign() * (C.abs() - threshold.to(compute)).relu()
    if rows is not None:
        C = without_diagonal(C, rows)
    C = scale * C
    return (C @ V.to(compute)).to(Q.dtype), C.abs().sum(dim=1), C.square().sum(dim=1)


def negative_scores(anchor: Tensor, bank: Tensor, rows: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """(B, N) ⟨a_b, m_j⟩ / τ, -inf at column ``rows[b]`` and at the columns of ``mask[b]`` (negative ones are
    padding).
    """
    compute = torch.float64 if anchor.dtype == torch.float64 else torch.float32
    scores = anchor.to(compute) @ bank.detach().to(compute).T / temperature
    N = scores.shape[1]
    left_out = rows[:, None] if mask is None else torch.cat((rows[:, None], mask), dim=1)
    column = torch.where(left_out < 0, N, left_out)  # padding goes to one column more
    excluded = torch.zeros(scores.shape[0], N + 1, dtype=torch.bool, device=scores.device).scatter(1, column, True)
    return scores.masked_fill(excluded[:, :N], -torch.inf)


def info_nce(
    anchor: Tensor,
    positive: Tensor,
    bank: Tensor,
    rows: Tensor,
    mask: Tensor | None = None,
    temperature: float = 0.2,
) -> Tensor:
    """(B,) -log of the softmax share of ⟨a_b, p_b⟩ / τ among itself and the negatives: the cross-entropy of class 0."""
    negative = negative_scores(anchor, bank, rows, mask, temperature)
    own = (anchor.to(negative.dtype) * positive.to(negative.dtype)).sum(1, keepdim=True) / temperature
    return torch.cat((own, negative), dim=1).logsumexp(1) - own[:, 0]


def info_nce_expected(
    anchor: Tensor,
    positive: Tensor,
    bank: Tensor,
    rows: Tensor,
    mask: Tensor | None = None,
    temperature: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """``info_nce`` and the expected negatives (B, d), Σ_j softmax_j m_j over the negatives; 0 where there are none."""
    negative = negative_scores(anchor, bank, rows, mask, temperature)
    weights = negative.softmax(dim=1).masked_fill((negative == -torch.inf).all(dim=1, keepdim=True), 0.0)
    return info_nce(anchor, positive, bank, rows, mask, temperature), weights @ bank.to(negative.dtype)


def topk_coefficients(
    C: Tensor,
    K: Tensor | None,
    k: int,
    rows: Tensor | None = None,
    signed: bool = False,
    zero_diagonal: bool = True,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """The k largest |c| (c if ``signed``) of each row, values and columns; c = C[rows, j], or ⟨C_b, K_j⟩ with K given.

    Largest first, NaN before everything, ties to the lowest column, never the sample's own; (0, −1) once none is left.
    """
    n, N = C.shape[0], (C if K is None else K).shape[1 if K is None else 0]
    own = torch.arange(row_offset, row_offset + n, device=C.device) if rows is None else rows
    if K is not None:
        wide = torch.float64 if C.dtype is torch.float64 else torch.float32
        c = C.to(wide) @ K.to(wide).T
    else:
        c = C if rows is None else C.index_select(0, rows - row_offset)
    excluded = torch.zeros_like(c, dtype=torch.bool)
    if zero_diagonal:
        excluded = torch.arange(N, device=C.device)[None, :] == own[:, None]
    order = (c if signed else c.abs()).detach().sort(dim=1, descending=True, stable=True).indices
    last = excluded.gather(1, order).sort(dim=1, stable=True)  # False before True, else as they were
    taken = min(k, N)
    columns = order.gather(1, last.indices)[:, :taken]
    none_left = last.values[:, :taken]
    values = c.gather(1, columns).masked_fill(none_left, 0.0)
    missing = (0, k - taken)
    return (
        torch.nn.functional.pad(values, missing),
        torch.nn.functional.pad(columns.masked_fill(none_left, -1), missing, value=-1),
    )


def threshold_coefficients(C: Tensor, rho: float) -> Tensor:
    """thrC of DSC-Net (Ji et al. 2017), row-wise: keep the smallest set of largest |c| whose sum exceeds ρ‖c‖₁.

    Ties go to the lowest column. Rows with a non-finite ℓ1 norm are returned as they are.
    """
    if rho >= 1:
        return C.clone()
    magnitude = C.abs().double()
    total = magnitude.sum(dim=1, keepdim=True)
    order = magnitude.sort(dim=1, descending=True, stable=True)
    before = order.values.cumsum(dim=1) - order.values
    kept_sorted = (before <= rho * total) & (order.values > 0) | ~total.isfinite()
    kept = torch.zeros_like(C, dtype=torch.bool).scatter(1, order.indices, kept_sorted)
    return torch.where(kept, C, torch.zeros_like(C))


def sparse_support(
    indices: Tensor, rows: Tensor | None, N: int, zero_diagonal: bool, row_offset: int
) -> tuple[Tensor, Tensor]:
    """Local rows (B,) and columns (B, k) of the batch's sparse coefficients; N stands for what does not count."""
    local = torch.arange(indices.shape[0], device=indices.device) if rows is None else rows - row_offset
    columns = indices.index_select(0, local)
    if zero_diagonal:
        columns = columns.masked_fill(columns == (local + row_offset)[:, None], N)
    return local, columns.masked_fill(columns < 0, N)


def gathered(M: Tensor, rows: Tensor | None, Z: Tensor | None, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, k, d): the rows of the spliced bank at ``columns``, zero at column N."""
    spliced = M.to(dtype) if rows is None else splice(M.to(dtype), rows, Z)
    return torch.cat([spliced, spliced.new_zeros(1, M.shape[1])])[columns]


def sparse_self_expression(
    values: Tensor,
    indices: Tensor,
    M: Tensor,
    rows: Tensor | None = None,
    Z: Tensor | None = None,
    zero_diagonal: bool = True,
    row_offset: int = 0,
) -> Tensor:
    """Ẑ_b = Σ_s values[r_b, s] M'[indices[r_b, s]] over the entries that are not padding."""
    local, columns = sparse_support(indices, rows, M.shape[0], zero_diagonal, row_offset)
    terms = values.index_select(0, local)[..., None] * gathered(M, rows, Z, columns, values.dtype)
    return terms.sum(dim=1)


def sparse_self_expression_grad(
    G: Tensor,
    indices: Tensor,
    M: Tensor,
    rows: Tensor | None = None,
    Z: Tensor | None = None,
    zero_diagonal: bool = True,
    row_offset: int = 0,
) -> Tensor:
    """(B, k): ⟨G_b, M'[indices[r_b, s]]⟩, the gradient of the batch's rows of values; zero for padding."""
    _, columns = sparse_support(indices, rows, M.shape[0], zero_diagonal, row_offset)
    return (G[:, None, :] * gathered(M, rows, Z, columns, G.dtype)).sum(dim=2)


def sparse_self_expression_transposed(
    G: Tensor,
    values: Tensor,
    indices: Tensor,
    rows: Tensor | None,
    N: int,
    spliced: bool,
    bank: bool,
    live: bool,
    zero_diagonal: bool = True,
    row_offset: int = 0,
) -> Tensor:
    """Gradients of the bank (N rows, if ``bank``) and of the live rows (B, if ``live``), one below the other."""
    local, columns = sparse_support(indices, rows, N, zero_diagonal, row_offset)
    owner = torch.arange(N + 1, device=G.device)
    if spliced and rows is not None:
        owner[rows] = N + 1 + last_occurrence(rows, N)
    terms = values.index_select(0, local)[..., None] * G[:, None, :]
    total = G.new_zeros(N + 1 + G.shape[0], G.shape[1]).index_add(0, owner[columns.flatten()], terms.flatten(0, 1))
    return torch.cat([total[: N if bank else 0], total[N + 1 if live else total.shape[0] :]])


def products_on_support(X: Tensor, indices: Tensor, Q: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each row's atoms and target: Gram matrix G (B, k, k), products g (B, k), the target's square (B,), and which
    entries count (B, k). What does not count is a zero atom.
    """
    own = torch.arange(X.shape[0], device=X.device)[:, None] if Q is None else -1
    counts = (indices >= 0) & (indices != own)
    atoms = gathered(X, None, None, indices.masked_fill(~counts, X.shape[0]), X.dtype)
    targets = X if Q is None else Q
    return atoms @ atoms.mT, (atoms * targets[:, None, :]).sum(2), targets.square().sum(1), counts


def on_support_rounding(k: int, dtype: torch.dtype) -> float:
    """The share of an atom's square below which nothing but rounding is left of it, with k atoms a row."""
    return (10 + k) * torch.finfo(dtype).eps


def solve_on_active(G: Tensor, active: Tensor, shift: Tensor | float, right: Tensor) -> Tensor:
    """(G_AA + shift I)⁻¹ right_A, zero off the active set A (B, k); right (B, k), shift one number or (B,). NaN in rows
    whose system is singular in this precision.
    """
    both = active[:, :, None] & active[:, None, :]
    diagonal = torch.where(active, torch.as_tensor(shift, dtype=G.dtype, device=G.device).reshape(-1, 1), 1.0)
    system = G.masked_fill(~both, 0.0) + diagonal.diag_embed()
    # By Cholesky: PyTorch 2.13's batched LU (with MKL, on two threads) has been seen to fail and to hang.
    factor, failed = torch.linalg.cholesky_ex(system)
    found = torch.cholesky_solve(right.masked_fill(~active, 0.0)[..., None], factor)[..., 0]
    return found.masked_fill(~active, 0.0).masked_fill(active & (failed > 0)[:, None], torch.nan)


def _visible(c: Tensor, G: Tensor, square: Tensor, counts: Tensor) -> Tensor:
    """NaN wherever a coefficient is, in rows with an atom or a target whose square is not finite."""
    finite = G.diagonal(dim1=1, dim2=2).isfinite().all(1) & square.isfinite()
    return c.masked_fill(counts & ~finite[:, None], torch.nan)


def ridge_shift(G: Tensor, lam: float) -> Tensor:
    """(B,) λ, or what rounding leaves of a smaller one."""
    if G.shape[1] == 0:
        return G.new_full(G.shape[:1], lam)
    most = G.detach().diagonal(dim1=1, dim2=2).amax(1).nan_to_num(0.0, 0.0)
    return (on_support_rounding(G.shape[1], G.dtype) * most).clamp(min=lam)


def on_support_adjoint(G: Tensor, X: Tensor, indices: Tensor, active: Tensor, shift: float, floored: bool) -> Tensor:
    """(B, k): (X_A X_Aᵀ + shift I)⁻¹ G_A, zero off the active entries A (B, k); floored: with ridge's least shift."""
    atoms = gathered(X, None, None, indices.masked_fill(~active, X.shape[0]), X.dtype)
    gram = atoms @ atoms.mT
    return solve_on_active(gram, active, ridge_shift(gram, shift) if floored else shift, G)


def ridge_on_support(X: Tensor, indices: Tensor, Q: Tensor | None, lam: float) -> Tensor:
    """argmin_c ‖q_b − Σ_s c_s x_(i_bs)‖² + λ ‖c‖² for every row b, (B, k)."""
    G, g, square, counts = products_on_support(X, indices, Q)
    return _visible(solve_on_active(G, counts, ridge_shift(G, lam), g), G, square, counts)


def elastic_net_on_support(X: Tensor, indices: Tensor, Q: Tensor | None, l1: float, l2: float) -> Tensor:
    """argmin_c ½ ‖q_b − Σ_s c_s x_(i_bs)‖² + λ1 ‖c‖₁ + ½ λ2 ‖c‖²: its signs by homotopy, then in closed form."""
    G, g, square, counts = products_on_support(X, indices, Q)
    sign, level = lasso_signs(G.detach(), g.detach(), counts, l1, l2)
    return _visible(solve_on_active(G, sign != 0, l2, g - level[:, None] * sign), G, square, counts)


@torch.no_grad()
def lasso_signs(G: Tensor, g: Tensor, counts: Tensor, l1: float, l2: float) -> tuple[Tensor, Tensor]:
    """The solution's signs (B, k), by homotopy: as λ falls from infinity to λ1, atoms join the active set where their
    correlation with the residual reaches ±λ, and leave it where their coefficient comes back to zero. And the λ at
    which each row ends, (B,): λ1, unless it takes more than 50 (k + 1) events.
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
    """Orthogonal matching pursuit among each row's atoms: the one of the largest |⟨x, residual⟩| joins, ties to the
    first, until there are n_nonzero or the squared residual is at most tolerance · ‖q‖².
    """
    G, g, square, counts = products_on_support(X, indices, Q)
    active = pursued(G.detach(), g.detach(), square.detach(), counts, n_nonzero, tolerance)
    return _visible(solve_on_active(G, active, 0.0, g), G, square, counts)


@torch.no_grad()
def pursued(G: Tensor, g: Tensor, square: Tensor, counts: Tensor, n_nonzero: int, tolerance: float) -> Tensor:
    """(B, k) the atoms that orthogonal matching pursuit takes."""
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


def symmetrize_affinity(
    values: Tensor, row: Tensor, column: Tensor, n: int, reduce: str = "mean", threshold: float = 0.0
) -> Tensor:
    """Dense (n, n) W from A, A[i, j] = Σ |value| over the entries at (i, j) above the threshold, and Aᵀ: their mean,
    their maximum, or the probabilistic sum a + b − a·b of both clamped to at most 1. Negative columns are padding.
    """
    present = (column >= 0) & ~(values.abs() <= threshold)
    A = values.new_zeros(n, n).index_put((row[present], column[present]), values[present].abs(), accumulate=True)
    if reduce == "t-conorm":
        A = A.clamp(max=1)
        return A + A.T - A * A.T
    return (A + A.T) / 2 if reduce == "mean" else torch.maximum(A, A.T)


def _into_bank(old: Tensor, Z: Tensor, bank: Tensor, normalize: bool, momentum: float) -> Tensor:
    compute = torch.float64 if torch.float64 in (bank.dtype, Z.dtype) else torch.float32
    mixed = Z.to(compute)
    if momentum != 0.0:
        mixed = momentum * old.to(compute) + (1.0 - momentum) * mixed
    if normalize:
        norm = mixed.norm(dim=1, keepdim=True)
        mixed = torch.where(norm > 0, mixed / norm, mixed)
    return mixed.to(bank.dtype)


def bank_scatter_(bank: Tensor, rows: Tensor, Z: Tensor, normalize: bool = False, momentum: float = 0.0) -> None:
    """bank[rows] = unit?(momentum · bank[rows] + (1 − momentum) · Z), the last duplicate winning."""
    keep = is_last_occurrence(rows, bank.shape[0])
    target = rows[keep]
    bank[target] = _into_bank(bank[target], Z[keep], bank, normalize, momentum)


def bank_push_(bank: Tensor, cursor: Tensor, Z: Tensor, normalize: bool = False) -> None:
    """FIFO: Z[b] goes to slot (cursor + b) mod capacity, then the cursor moves on by B."""
    capacity, batch = bank.shape[0], Z.shape[0]
    if capacity > 0:
        kept = Z[max(0, batch - capacity) :]
        slots = (cursor.reshape(()) + torch.arange(batch - kept.shape[0], batch, device=Z.device)) % capacity
        bank[slots] = _into_bank(bank[slots], kept, bank, normalize, 0.0)
        cursor.copy_((cursor + batch) % capacity)


def row_adam_(
    C: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    rows: Tensor | None,
    grad: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    l1: float,
) -> None:
    """Adam (Kingma & Ba 2015) on rows ``rows`` of C alone, each with its own step count; duplicate rows add their
    gradients.
    """
    if rows is None:
        target, total = torch.arange(C.shape[0], device=C.device), grad
    else:
        target, inverse = rows.unique(return_inverse=True)
        total = grad.new_zeros(target.numel(), grad.shape[1]).index_add(0, inverse, grad)
    c = C[target]
    g = total + weight_decay * c + l1 * c.sign()
    step[target] += 1
    count = step[target].double()[:, None]
    m = exp_avg[target].lerp(g, 1.0 - beta1)
    v = beta2 * exp_avg_sq[target] + (1.0 - beta2) * g * g
    step_size = (lr / (1.0 - beta1**count)).to(c.dtype)
    denominator = v.sqrt() / (1.0 - beta2**count).sqrt().to(c.dtype) + eps
    exp_avg[target], exp_avg_sq[target] = m, v
    C[target] = c - step_size * m / denominator


def _scrambled(x: Tensor) -> Tensor:
    """The bijection of 32 bits of csrc/common/row_step.h, on int64 numbers below 2³²."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)


def rounding_noise(row: Tensor, count: Tensor, columns: int) -> Tensor:
    """(B, columns) int64, 32 random bits for each element of global rows ``row`` (B,) at their ``count``-th step."""
    seed = _scrambled((row & 0xFFFFFFFF) ^ _scrambled((row >> 32) ^ _scrambled(count & 0xFFFFFFFF)))
    return _scrambled((seed[:, None] + torch.arange(columns, device=row.device)) & 0xFFFFFFFF)


def stochastic_bf16(value: Tensor, noise: Tensor) -> Tensor:
    """float32 ``value`` in bfloat16, rounded up with the probability of what is cut off; ``noise`` has 16 bits."""
    bits = value.view(torch.int32).long() & 0xFFFFFFFF
    cut = torch.where(value.isnan(), bits | 0x400000, bits + noise) >> 16
    return cut.to(torch.int16).view(torch.bfloat16)


def self_expression_step_(
    C: Tensor,
    exp_avg: Tensor | None,
    exp_avg_sq: Tensor | None,
    step: Tensor | None,
    G: Tensor,
    M: Tensor,
    rows: Tensor | None,
    Z: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    l1: float,
    proximal: bool,
    zero_diagonal: bool,
    row_offset: int,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step of the batch's rows of C from G = ∂L/∂Ẑ: Adam, AdamW or ISTA on dC = G M'ᵀ off the diagonal."""
    if rows is None:
        rows = torch.arange(row_offset, row_offset + C.shape[0], device=C.device)
    target, inverse = rows.unique(return_inverse=True)
    total = G.new_zeros(target.numel(), G.shape[1]).index_add(0, inverse, G)
    if grad_scale is not None:
        total = total / grad_scale.to(G.dtype)
    grad = total @ splice(M, rows, Z).T
    if zero_diagonal:
        grad = without_diagonal(grad, target)
    step_rows_(
        C, exp_avg, exp_avg_sq, step, target, grad, lr, beta1, beta2, eps, weight_decay, decoupled, l1, proximal,
        row_offset, found_inf,
    )  # fmt: skip


def step_rows_(
    C: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None, target: Tensor, grad: Tensor,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, decoupled: bool, l1: float, proximal: bool,
    row_offset: int, found_inf: Tensor | None,
) -> None:  # fmt: skip
    """Adam, AdamW or ISTA on the distinct global rows ``target`` of C, whose gradient of the data is ``grad``."""
    local = target - row_offset
    skip = torch.zeros((), dtype=torch.bool, device=C.device) if found_inf is None else found_inf.reshape(()) != 0
    c = C[local]
    if proximal:
        new = torch.nn.functional.softshrink(c - lr * (grad + weight_decay * c), lr * l1)
    else:
        assert exp_avg is not None and exp_avg_sq is not None and step is not None
        g = grad + l1 * c.sign()
        if not decoupled:
            g = g + weight_decay * c
        count = step[local] + ~skip
        t = count.double()[:, None]
        m = exp_avg[local].to(c.dtype).lerp(g, 1.0 - beta1)
        v = beta2 * exp_avg_sq[local].to(c.dtype) + (1.0 - beta2) * g * g
        step_size = (lr / (1.0 - beta1**t)).to(c.dtype)
        denominator = v.sqrt() / (1.0 - beta2**t).sqrt().to(c.dtype) + eps
        new = (c * (1.0 - lr * weight_decay) if decoupled else c) - step_size * m / denominator
        if exp_avg.dtype == torch.bfloat16:
            noise = rounding_noise(target, count, C.shape[1])
            m, v = stochastic_bf16(m, noise & 0xFFFF), stochastic_bf16(v, noise >> 16)
        exp_avg[local] = torch.where(skip, exp_avg[local], m)
        exp_avg_sq[local] = torch.where(skip, exp_avg_sq[local], v)
        step[local] = count
    C[local] = torch.where(skip, c, new)


def sparse_self_expression_step_(
    values: Tensor,
    indices: Tensor,
    exp_avg: Tensor | None,
    exp_avg_sq: Tensor | None,
    step: Tensor | None,
    G: Tensor,
    M: Tensor,
    rows: Tensor | None,
    Z: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    l1: float,
    proximal: bool,
    zero_diagonal: bool,
    row_offset: int,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step of the batch's rows of values from G = ∂L/∂Ẑ: Adam, AdamW or ISTA on ⟨G_b, M'[indices[r_b, s]]⟩."""
    grad = sparse_self_expression_grad(G, indices, M, rows, Z, zero_diagonal, row_offset)
    target = torch.arange(row_offset, row_offset + values.shape[0], device=values.device)
    if rows is not None:
        target, inverse = rows.unique(return_inverse=True)
        grad = grad.new_zeros(target.numel(), grad.shape[1]).index_add(0, inverse, grad)
    if grad_scale is not None:
        grad = grad / grad_scale.to(grad.dtype)
    step_rows_(
        values, exp_avg, exp_avg_sq, step, target, grad, lr, beta1, beta2, eps, weight_decay, decoupled, l1, proximal,
        row_offset, found_inf,
    )  # fmt: skip
