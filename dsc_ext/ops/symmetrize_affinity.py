"""symmetrize_affinity: coefficients to the affinity graph W = (|C| + |C|ᵀ)/2 as CSR, sorted, merged and differentiable.

    A_ij = Σ |c| over the entries at (i, j),      W_ij = (A_ij + A_ji)/2   or   max(A_ij, A_ji)

Source: the affinity of sparse subspace clustering (Elhamifar & Vidal, TPAMI 2013), used by every method here.

Shape of the computation: every entry is filed twice, in its own row and mirrored in the row of its column; each row is
sorted by (column, entry) and its runs of equal columns are merged in that order. The order is total, so the sums are
the same in every run. Each entry remembers the two places of W it went to: the gradient is a gather.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from dsc_ext import _checks, _native
from dsc_ext.ops._register import register

_NAME = "symmetrize_affinity"

# What is used of CSR here (construction, values, products) is stable; the notice would greet every user of the package.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
_REDUCE = ("mean", "max")


def _check(values: Tensor, crow: Tensor, column: Tensor, reduce: str) -> None:
    _checks.tensor(_NAME, "values", values, 1, _checks.REAL)
    _checks.tensor(_NAME, "crow", crow, 1, (torch.int64,), values)
    _checks.tensor(_NAME, "column", column, 1, (torch.int64,), values)
    if column.shape != values.shape:
        _checks.fail(_NAME, f"values and column must be equally long, got {values.shape[0]} and {column.shape[0]}")
    if reduce not in _REDUCE:
        _checks.fail(_NAME, f"reduce must be 'mean' or 'max', got {reduce!r}")


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _kernel(values: Tensor, crow: Tensor, column: Tensor, reduce: str) -> tuple[Tensor, ...]:
    _check(values, crow, column, reduce)
    native = _native.backend(values)
    if native is None:
        return _without_kernel(values, crow, column, reduce)
    values, crow, column = values.contiguous(), crow.contiguous(), column.contiguous()
    n, entries = crow.shape[0] - 1, values.shape[0]
    position, mirror = column.new_zeros(entries), column.new_zeros(entries)
    share = values.new_zeros(entries)
    queue = _native.queue(values)
    degree, cursor, unique = crow.new_zeros(n), crow.new_zeros(n), crow.new_zeros(n)
    with _native.device_of(values):
        native.symmetrize_degree(queue, n, crow.data_ptr(), column.data_ptr(), degree.data_ptr())
        offset = _offsets(degree)
        # Worst case, every entry off the diagonal: no host read of the exact count is needed here.
        filed = column.new_empty(2 * entries, 2)
        native.symmetrize_file(
            queue, n, crow.data_ptr(), column.data_ptr(), offset.data_ptr(), cursor.data_ptr(),
            filed.data_ptr(), unique.data_ptr(),
        )  # fmt: skip
        out_crow = _offsets(unique)
        nonzeros = int(out_crow[-1])  # the size of W: the one host read
        out_column, out_values = column.new_empty(nonzeros), values.new_empty(nonzeros)
        native.symmetrize_merge(
            _native.DTYPES[values.dtype], queue, n, values.data_ptr(), offset.data_ptr(),
            filed.data_ptr(), out_crow.data_ptr(), reduce == "max",
            out_column.data_ptr(), out_values.data_ptr(), position.data_ptr(), mirror.data_ptr(), share.data_ptr(),
        )  # fmt: skip
    return out_values, share, out_crow, out_column, position, mirror


def _without_kernel(values: Tensor, crow: Tensor, column: Tensor, reduce: str) -> tuple[Tensor, ...]:
    """The same six outputs from sorts and scatters of PyTorch, for devices without a kernel."""
    n = crow.shape[0] - 1
    row = torch.repeat_interleave(torch.arange(n, device=column.device), crow.diff())
    real = column >= 0
    keys = torch.cat([row * n + column, column * n + row])[real.repeat(2)]
    places, where = keys.unique(return_inverse=True)
    forward, backward = where.chunk(2)
    magnitude = values[real].abs()
    own = values.new_zeros(places.numel()).index_add_(0, forward, magnitude)
    other = values.new_zeros(places.numel()).index_add_(0, backward, magnitude)
    merged = (own + other) / 2 if reduce == "mean" else torch.maximum(own, other)
    out_crow = _offsets(torch.bincount(places // max(n, 1), minlength=n)[:n])
    position, mirror = column.new_zeros(values.shape[0]), column.new_zeros(values.shape[0])
    share = values.new_zeros(values.shape[0])
    position[real], mirror[real] = forward, backward
    side = (own > other).to(values.dtype) + 0.5 * (own == other).to(values.dtype)
    share[real] = 0.5 if reduce == "mean" else side[forward]
    return merged, share, out_crow, places % max(n, 1), position, mirror


def _fake(values: Tensor, crow: Tensor, column: Tensor, reduce: str) -> tuple[Tensor, ...]:
    _check(values, crow, column, reduce)
    nonzeros = torch.library.get_ctx().new_dynamic_size()
    return (
        values.new_empty(nonzeros),
        values.new_empty(values.shape[0]),
        crow.new_empty(crow.shape[0]),
        column.new_empty(nonzeros),
        column.new_empty(values.shape[0]),
        column.new_empty(values.shape[0]),
    )


class _Symmetrize(torch.autograd.Function):
    """∂L/∂c_e = sign(c_e) · share_e · (g at (i, j) + g at (j, i)): a gather, deterministic."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, crow: Tensor, column: Tensor, reduce: str) -> tuple[Tensor, ...]:  # type: ignore[override]
        with torch._C._AutoDispatchBelowAutograd():
            outputs: tuple[Tensor, ...] = _op(values, crow, column, reduce)
        _, share, out_crow, out_column, position, mirror = outputs
        ctx.save_for_backward(values.sign(), position, mirror, share)
        ctx.mark_non_differentiable(share, out_crow, out_column, position, mirror)
        return outputs

    @staticmethod
    def backward(ctx: Any, G: Tensor, *_others: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        sign, position, mirror, share = ctx.saved_tensors
        # One zero more, so that padding (share 0, position 0) has a place to read when W is empty.
        G = torch.nn.functional.pad(G, (0, 1))
        return sign * share * (G[position] + G[mirror]), None, None, None


_op = register(
    "symmetrize_affinity(Tensor values, Tensor crow, Tensor column, str reduce)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernel=_kernel,
    fake=_fake,
    autograd=_Symmetrize,
)


def _entries(values: Tensor, indices: Tensor | None, threshold: float) -> tuple[Tensor, Tensor, Tensor, int]:
    """Any accepted form as (values, crow, column, n): unsorted rows of entries, possibly repeated or padding (< 0)."""
    if not isinstance(values, Tensor):
        _checks.fail(_NAME, f"values must be a tensor, got {_checks.describe(values)}", TypeError)
    if indices is not None:
        _checks.tensor(_NAME, "values", values, 2, _checks.REAL)
        _checks.tensor(_NAME, "indices", indices, 2, (torch.int64,))
        if values.shape != indices.shape:
            _checks.fail(
                _NAME, f"values and indices must both be (N, k), got {tuple(values.shape)} and {tuple(indices.shape)}"
            )
        n, k = indices.shape
        crow = torch.arange(n + 1, device=indices.device) * k
        column = indices if threshold <= 0 else indices.masked_fill(values.abs() <= threshold, -1)
        return values.reshape(-1), crow, column.reshape(-1), n
    if values.dim() != 2 or values.shape[0] != values.shape[1]:
        _checks.fail(
            _NAME, f"values without indices must be an (N, N) matrix, dense or CSR, got {_checks.describe(values)}"
        )
    n = values.shape[0]
    if values.layout is torch.sparse_csr:
        crow, column, data = values.crow_indices().long(), values.col_indices().long(), values.values()
        if threshold > 0:
            column = column.masked_fill(data.abs() <= threshold, -1)
        return data, crow, column, n
    if values.layout is not torch.strided:
        _checks.fail(_NAME, f"values must be dense or sparse CSR, got layout {values.layout}", TypeError)
    _checks.tensor(_NAME, "values", values, 2, _checks.REAL)
    present = (values > threshold) | (values < -threshold) | values.isnan()
    return values[present], _offsets(present.sum(dim=1)), present.nonzero()[:, 1], n


def symmetrize_affinity(
    values: Tensor, indices: Tensor | None = None, *, reduce: str = "mean", threshold: float = 0.0
) -> Tensor:
    """The affinity graph of a coefficient matrix: W = (|C| + |C|ᵀ)/2, or the larger of the two, as sparse CSR.

    Args:
        values: (N, N) dense; or (N, N) ``torch.sparse_csr`` (rows need not be sorted); or (N, k) with ``indices``.
            float32 or float64.
        indices: (N, k) int64 columns of ``values``; a negative one marks padding. Repeated columns are added up (of
            |c|).
        reduce: "mean" for (|C| + |C|ᵀ)/2, "max" for the larger side.
        threshold: entries with |c| ≤ threshold are dropped beforehand.

    Returns:
        (N, N) ``torch.sparse_csr`` with sorted, unique columns, exactly symmetric; differentiable with respect to
        ``values`` (for "max" the larger side takes the gradient, ties share it, as ``torch.maximum`` does).

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.
        IndexError: (CPU) a column ≥ N; on CUDA a device-side assertion.

    Cost: O(nnz log(row)) time, 48 bytes of scratch an entry; one host read for the size of W (so not in a CUDA graph).
    Deterministic: every sum is taken in (column, entry) order, no atomics on values.

    Source: Elhamifar & Vidal, *Sparse Subspace Clustering*, TPAMI 2013, §2.

    Example:
        >>> W = symmetrize_affinity(torch.tensor([[0.0, -2.0], [0.0, 0.0]]))
        >>> W.to_dense()
        tensor([[0., 1.],
                [1., 0.]])
    """
    if not threshold >= 0:
        _checks.fail(_NAME, f"threshold must be 0 or more, got {threshold}")
    data, crow, column, n = _entries(values, indices, threshold)
    out_values, _, out_crow, out_column, _, _ = _op(data, crow, column, reduce)
    return torch.sparse_csr_tensor(out_crow, out_column, out_values, (n, n), check_invariants=False)
