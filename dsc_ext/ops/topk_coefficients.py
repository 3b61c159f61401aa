"""topk_coefficients: the k largest coefficients of each row, from a matrix or straight from queries and keys.

    c_bj = C[r_b, j]   or   ⟨q_b, k_j⟩,     per row the k largest |c_bj| over j ≠ r_b, and their columns

Source: the support every sparse affinity keeps (k-sparse rows: Elhamifar & Vidal, TPAMI 2013; SENet, CVPR 2021).

What is a kernel and what is a library call, and why: the selection is a kernel, because it needs neither |C| nor the
B×N scores in memory. Its gradient is that of a gather: a scatter into C, and for queries and keys two weighted
bag-sums of rows, which PyTorch has and takes in a fixed order; the keys' entries are sorted by key first. A
backend that keeps its candidates in fast memory serves a bounded k (256 on CUDA); beyond it PyTorch sorts, block by
block of rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from dsc_ext import _checks, _native, reference
from dsc_ext._torch import below_autograd
from dsc_ext.ops._register import register

_NAME = "topk_coefficients"
_BLOCK = 1 << 24  # scores that exist at a time where PyTorch has to serve


def _check(C: Tensor, K: Tensor | None, k: int, rows: Tensor | None, zero_diagonal: bool, row_offset: int) -> None:
    if K is None:
        _checks.tensor(_NAME, "C", C, 2, _checks.REAL)
        n, N = C.shape
    else:
        _checks.tensor(_NAME, "Q", C, 2, _checks.STORAGE)
        _checks.tensor(_NAME, "K", K, 2, (C.dtype,), C)
        n, N = C.shape[0], K.shape[0]
        if K.shape[1] != C.shape[1]:
            _checks.fail(_NAME, f"K must be (N, d) with d = Q.shape[1] = {C.shape[1]}, got {tuple(K.shape)}")
    if k < 0:
        _checks.fail(_NAME, f"k must be 0 or more, got {k}")
    if N >= 1 << 32:
        _checks.fail(_NAME, f"rows must have fewer than 2**32 columns, got {N}")
    if rows is not None:
        _checks.tensor(_NAME, "rows", rows, 1, (torch.int64,), C)
        if K is not None and rows.shape[0] != n:
            _checks.fail(_NAME, f"rows must be (B,) with B = Q.shape[0] = {n}, got {tuple(rows.shape)}")
        if K is not None and row_offset != 0:
            _checks.fail(_NAME, f"row_offset must be 0 where rows name the samples of Q, got {row_offset}")
    if zero_diagonal and not 0 <= row_offset <= N - n and (K is None or rows is None):
        what, columns = ("C", N) if K is None else ("Q", f"{N} = K.shape[0]")
        _checks.fail(
            _NAME,
            f"{what} must be rows row_offset .. row_offset + n of N = {columns} when each sample's own column is "
            f"passed over, got {tuple(C.shape)} with row_offset = {row_offset}",
        )


def _shape(C: Tensor, K: Tensor | None, k: int, rows: Tensor | None) -> tuple[int, int]:
    return C.shape[0] if rows is None else rows.shape[0], k


def _kernel(
    C: Tensor, K: Tensor | None, k: int, rows: Tensor | None, signed: bool, zero_diagonal: bool, row_offset: int,
    sparse_grad: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _check(C, K, k, rows, zero_diagonal, row_offset)
    B = _shape(C, K, k, rows)[0]
    native = _native.backend(C)
    if native is None or k > native.topk_coefficients_most():
        return _by_library(C, K, k, rows, signed, zero_diagonal, row_offset)
    values = C.new_empty(B, k, dtype=_checks.accumulation_dtype(C))
    indices = C.new_empty(B, k, dtype=torch.int64)
    if B == 0 or k == 0:
        return values, indices
    if rows is not None:
        rows = rows.contiguous()
    if K is not None and C.is_cpu:  # 16-bit numbers are widened here, by CUDA kernels as they read
        C, K = C.to(values.dtype), K.to(values.dtype)
    C, dtype, queue = _native.row_major(C), _native.DTYPES[C.dtype], _native.queue(C)
    with _native.device_of(C):
        if K is None:
            N = C.shape[1]
            scratch = C.new_empty(native.topk_coefficients_scratch(dtype, queue, B, N, k), dtype=torch.uint8)
            native.topk_coefficients(
                dtype, queue, C.data_ptr(), C.stride(0), C.shape[0], row_offset, N, _native.pointer(rows), B,
                k, signed, zero_diagonal, scratch.data_ptr(), values.data_ptr(), indices.data_ptr(),
            )  # fmt: skip
        else:
            K = _native.row_major(K)
            N, d = K.shape
            scratch = C.new_empty(native.topk_inner_products_scratch(dtype, queue, B, N, d, k), dtype=torch.uint8)
            native.topk_inner_products(
                dtype, queue, _native.tf32(C), C.data_ptr(), C.stride(0), B, K.data_ptr(), K.stride(0), N, d,
                _native.pointer(rows), row_offset, k, signed, zero_diagonal,
                scratch.data_ptr(), values.data_ptr(), indices.data_ptr(),
            )  # fmt: skip
    return values, indices


def _by_library(
    C: Tensor, K: Tensor | None, k: int, rows: Tensor | None, signed: bool, zero_diagonal: bool, row_offset: int
) -> tuple[Tensor, Tensor]:
    """The reference over blocks of rows, so that no B×N scores exist here either."""
    B, N = _shape(C, K, k, rows)[0], C.shape[1] if K is None else K.shape[0]
    step = max(1, _BLOCK // max(N, 1))
    own = torch.arange(row_offset, row_offset + B, device=C.device) if rows is None else rows
    parts = [
        reference.topk_coefficients(
            C if K is None else C[b : b + step], K, k, own[b : b + step], signed, zero_diagonal, row_offset
        )
        for b in range(0, max(B, 1), step)
    ]
    values, indices = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(indices)


def _fake(
    C: Tensor, K: Tensor | None, k: int, rows: Tensor | None, signed: bool, zero_diagonal: bool, row_offset: int,
    sparse_grad: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _check(C, K, k, rows, zero_diagonal, row_offset)
    shape = _shape(C, K, k, rows)
    return C.new_empty(shape, dtype=_checks.accumulation_dtype(C)), C.new_empty(shape, dtype=torch.int64)


class _TopK(torch.autograd.Function):
    """The gradient passes to what was selected (the selected set is locally constant)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        C, K, _, rows, _, _, ctx.row_offset, ctx.sparse_grad = arguments
        ctx.shape = C.shape
        with below_autograd():
            values, indices = _op(*arguments)
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(indices, rows, *(() if K is None else (C, K)))
        return values, indices

    @staticmethod
    def backward(ctx: Any, G: Tensor, _indices: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        indices, rows, *products = ctx.saved_tensors
        G = G.masked_fill(indices < 0, 0.0)
        width = products[1].shape[0] if products else ctx.shape[1]
        columns = indices.clamp(0, max(width - 1, 0))
        if products:
            Q, K = products
            dQ, dK = _product_gradients(Q, K, columns, G, ctx.needs_input_grad)
            return dQ, dK, None, None, None, None, None, None
        if columns.shape[1] > width:  # padding beyond a row that was taken whole
            columns, G = columns[:, :width], G[:, :width]
        dC = G.new_zeros(G.shape[0], width).scatter_add(1, columns, G)
        if rows is not None:
            local = rows - ctx.row_offset
            if ctx.sparse_grad:
                dC = torch.sparse_coo_tensor(local[None], dC, ctx.shape, check_invariants=False)
            else:
                dC = dC.new_zeros(ctx.shape).index_add(0, local, dC)
        return dC, None, None, None, None, None, None, None


def _product_gradients(
    Q: Tensor, K: Tensor, columns: Tensor, G: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """∂L/∂q_b = Σ_i g_bi k_(column bi), and ∂L/∂k_j the sum of g_bi q_b over the entries with column j, b ascending."""
    if columns.numel() == 0 or K.shape[0] == 0:
        return torch.zeros_like(Q) if wanted[0] else None, torch.zeros_like(K) if wanted[1] else None
    wide_Q, wide_K = Q.to(G.dtype), K.to(G.dtype)
    dQ = dK = None
    if torch.is_grad_enabled():
        selected = (wide_Q[:, None, :] * wide_K[columns]).sum(2)
        inputs = [x for x, wants in zip((Q, K), wanted, strict=False) if wants]
        found = iter(torch.autograd.grad(selected, inputs, G, create_graph=True))
        dQ, dK = (next(found) if wanted[i] else None for i in (0, 1))
        return dQ, dK
    if wanted[0]:
        dQ = embedding_bag(columns, wide_K, mode="sum", per_sample_weights=G).to(Q.dtype)
    if wanted[1]:
        by_key = columns.reshape(-1).sort(stable=True)
        first = torch.searchsorted(by_key.values, torch.arange(K.shape[0], device=K.device))
        query, weight = by_key.indices // columns.shape[1], G.reshape(-1)[by_key.indices]
        dK = embedding_bag(query, wide_Q, first, mode="sum", per_sample_weights=weight).to(K.dtype)
    return dQ, dK


_op = register(
    "topk_coefficients(Tensor C, Tensor? K, int k, Tensor? rows, bool signed, bool zero_diagonal, int row_offset,"
    " bool sparse_grad) -> (Tensor, Tensor)",
    kernel=_kernel,
    fake=_fake,
    autograd=_TopK,
    autocast=True,
)


def topk_coefficients(
    C: Tensor | tuple[Tensor, Tensor],
    k: int,
    *,
    rows: Tensor | None = None,
    signed: bool = False,
    zero_diagonal: bool = True,
    row_offset: int = 0,
    sparse_grad: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Select the k largest coefficients of each row by magnitude, with their columns: what a sparse affinity keeps.

    Args:
        C: the coefficients. Either (N, N), or its rows ``row_offset .. row_offset + n`` as (n, N), or (n, m) against m
            landmarks with ``zero_diagonal=False``; float32 or float64. Or a pair ``(Q, K)`` of (B, d) queries and
            (N, d) keys of one dtype, float32, float64, float16 or bfloat16, which stands for C = Q Kᵀ without
            storing it; 16-bit numbers are multiplied and summed in float32.
        k: how many, 0 or more. Rows with fewer columns end in value 0 and index −1, which
            :func:`symmetrize_affinity` takes as padding.
        rows: (B,) int64 global sample indices. Of a matrix: the rows to look at. Of a pair: which samples the
            queries are. ``None``: sample ``row_offset + b`` in row b.
        signed: rank by c instead of |c|.
        zero_diagonal: pass over each sample's own column.
        row_offset: global index of the first row, when C (or Q, without ``rows``) is a shard.
        sparse_grad: with ``rows``, give ``C.grad`` as a sparse COO tensor holding the batch's rows alone.

    Returns:
        values (B, k), signs kept, of C's dtype (float32 for 16-bit pairs), and indices (B, k) int64; both contiguous,
        largest first, ties by the lowest column. NaN ranks above everything, as in ``torch.topk``, so that it stays
        visible. −0 ties with 0.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.
        IndexError: (CPU) a row outside C, or of a pair outside the samples of K when the diagonal is passed over. On
            CUDA such a row trips a device-side assertion.

    Cost: one pass over C; of a pair 2·B·N·d FLOP and O(B k) memory, the scores are dropped tile by tile. Float32
    products on CUDA follow ``torch.set_float32_matmul_precision``; in its "highest" an infinite factor gives NaN there.
    Above k = 256 on CUDA PyTorch sorts blocks of rows instead. Backward: O(B k) for C plus its zeros; O(B k d) for a
    pair. Values are differentiable, twice too; indices are not. Deterministic, and the selection is exact: the same
    bits for any number of threads. Under autocast everything is computed in float32.

    Source: Elhamifar & Vidal, *Sparse Subspace Clustering*, TPAMI 2013; Zhang et al., *Learning a Self-Expressive
    Network for Subspace Clustering*, CVPR 2021 (scores of pairs).

    Example:
        >>> topk_coefficients(torch.tensor([[9.0, 1.0, -3.0], [2.0, 9.0, 2.0], [0.0, 0.5, 9.0]]), 1)
        (tensor([[-3.0000],
                [ 2.0000],
                [ 0.5000]]), tensor([[2],
                [0],
                [1]]))
    """
    Q, K = C if isinstance(C, (tuple, list)) and len(C) == 2 else (C, None)
    if not isinstance(Q, Tensor) or not (K is None or isinstance(K, Tensor)):  # before the schema does, in other words
        if isinstance(C, (tuple, list)):
            _checks.fail(_NAME, f"C must be a matrix or a pair (Q, K) of tensors, got {_checks.describe(C)}", TypeError)
        _check(Q, K, k, rows, zero_diagonal, row_offset)
    values, indices = _op(Q, K, k, rows, signed, zero_diagonal, row_offset, sparse_grad)
    return values, indices
