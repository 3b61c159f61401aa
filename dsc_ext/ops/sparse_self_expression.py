"""sparse_self_expression: Ẑ = C M' with k coefficients a row, for a batch against the bank; N = 10⁶ fits.

    Ẑ_b = Σ_s values[r_b, s] · M'[indices[r_b, s]],     M' = the bank M with rows r replaced by the live batch Z

Source: the self-expression of Ji et al. (NIPS 2017, §3) on the support that sparse subspace clustering leaves of it
(Elhamifar & Vidal, TPAMI 2013; 5 to 50 entries a row in You et al., CVPR 2016).

Shape of the computation: the forward and the gradient of the coefficients gather k rows of the bank for each row of the
batch. The gradients of M and Z are the transposed product: entries are filed by the row they name (stably: a library's
radix sort on CUDA, counting on the CPU), and each row gathers in that order. So no two threads add to one number, and a
hub, a row of the bank that every sample names, is summed in pieces. The two halves of the backward are ops of their own
(``_grad`` and ``_transposed``), so that they trace as the forward does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsc_ext import _checks, _native, reference
from dsc_ext._torch import below_autograd
from dsc_ext.ops._register import register

_NAME = "sparse_self_expression"
_HALF = (torch.float16, torch.bfloat16)
_MOST_TARGETS = 2**31 - 1  # keys are int32


def check_operands(
    op: str, values: Tensor, indices: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None,
    zero_diagonal: bool, row_offset: int,
) -> None:  # fmt: skip
    """Refuse what neither the op nor its fused step can take of the arguments they share."""
    _checks.tensor(op, "values", values, 2, _checks.REAL)
    _checks.tensor(op, "indices", indices, 2, (torch.int64,), values)
    if values.shape != indices.shape:
        _checks.fail(
            op, f"values and indices must both be (n, k), got {tuple(values.shape)} and {tuple(indices.shape)}"
        )
    half = _HALF if values.dtype == torch.float32 else ()
    _checks.tensor(op, "M", M, 2, (values.dtype, *half), values)
    _checks.batch(op, "values", values, M, rows, Z, zero_diagonal, row_offset)


def slots(M: Tensor, rows: Tensor | None, Z: Tensor | None) -> Tensor | None:
    """Return scratch in which a launcher notes where in the batch a row of the bank is; None without a splice."""
    return None if rows is None or Z is None else rows.new_empty(M.shape[0], dtype=torch.int32)


def _kernel(
    values: Tensor, indices: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None,
    zero_diagonal: bool, row_offset: int, sparse_grad: bool,
) -> Tensor:  # fmt: skip
    check_operands(_NAME, values, indices, M, rows, Z, zero_diagonal, row_offset)
    native = _native.backend(values)
    if native is None:
        return reference.sparse_self_expression(values, indices, M, rows, Z, zero_diagonal, row_offset)
    (n, k), (N, d) = values.shape, M.shape
    out = values.new_empty(n if rows is None else rows.shape[0], d)
    if out.numel() == 0:
        return out
    values, indices, M = _native.row_major(values), _native.row_major(indices), _native.row_major(M)
    rows = None if rows is None else rows.contiguous()
    Z = None if Z is None else _native.row_major(Z)
    slot = slots(M, rows, Z)
    with _native.device_of(values):
        native.sparse_self_expression(
            _native.DTYPES[values.dtype], _native.DTYPES[M.dtype], _native.queue(values),
            values.data_ptr(), values.stride(0), indices.data_ptr(), indices.stride(0), n, row_offset, k,
            M.data_ptr(), M.stride(0), N, d, _native.pointer(rows), out.shape[0],
            _native.pointer(Z), 0 if Z is None else Z.stride(0), _native.pointer(slot), zero_diagonal, out.data_ptr(),
        )  # fmt: skip
    return out


def _fake(
    values: Tensor, indices: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None,
    zero_diagonal: bool, row_offset: int, sparse_grad: bool,
) -> Tensor:  # fmt: skip
    check_operands(_NAME, values, indices, M, rows, Z, zero_diagonal, row_offset)
    return values.new_empty(values.shape[0] if rows is None else rows.shape[0], M.shape[1])


def _grad_kernel(
    G: Tensor, indices: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None, zero_diagonal: bool, row_offset: int
) -> Tensor:
    """(B, k): ∂L/∂values[r_b, s] = ⟨G_b, M'[indices[r_b, s]]⟩."""
    native = _native.backend(G)
    if native is None:
        return reference.sparse_self_expression_grad(G, indices, M, rows, Z, zero_diagonal, row_offset)
    (n, k), (N, d) = indices.shape, M.shape
    grad = G.new_empty(G.shape[0], k)
    if grad.numel() == 0:
        return grad
    G, indices, M = _native.row_major(G), _native.row_major(indices), _native.row_major(M)
    rows = None if rows is None else rows.contiguous()
    Z = None if Z is None else _native.row_major(Z)
    slot = slots(M, rows, Z)
    with _native.device_of(G):
        native.sparse_self_expression_grad(
            _native.DTYPES[G.dtype], _native.DTYPES[M.dtype], _native.queue(G),
            indices.data_ptr(), indices.stride(0), n, row_offset, k, M.data_ptr(), M.stride(0), N, d,
            _native.pointer(rows), G.shape[0], _native.pointer(Z), 0 if Z is None else Z.stride(0),
            _native.pointer(slot), zero_diagonal, G.data_ptr(), G.stride(0), grad.data_ptr(),
        )  # fmt: skip
    return grad


def _grad_fake(
    G: Tensor, indices: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None, zero_diagonal: bool, row_offset: int
) -> Tensor:
    return G.new_empty(G.shape[0], indices.shape[1])


def _transposed_kernel(
    G: Tensor, values: Tensor, indices: Tensor, rows: Tensor | None, N: int, spliced: bool, bank: bool, live: bool,
    zero_diagonal: bool, row_offset: int,
) -> Tensor:  # fmt: skip
    """(N if bank) + (B if live) rows: Σ values[r_b, s] · G_b over the entries that name a row of the bank, or of Z."""
    native = _native.backend(G)
    if native is None:
        return reference.sparse_self_expression_transposed(
            G, values, indices, rows, N, spliced, bank, live, zero_diagonal, row_offset
        )
    (n, k), (B, d) = values.shape, G.shape
    targets = (N if bank else 0) + (B if live else 0)
    if targets * d == 0 or B * k == 0:
        return G.new_zeros(targets, d)
    if targets > _MOST_TARGETS:
        _checks.fail(_NAME, f"the bank and the batch must have fewer than 2^31 rows for a gradient, got {targets}")
    G, values, indices = _native.row_major(G), _native.row_major(values), _native.row_major(indices)
    rows = None if rows is None else rows.contiguous()
    slot = rows.new_empty(N, dtype=torch.int32) if spliced and rows is not None else None
    queue, dtype = _native.queue(G), _native.DTYPES[G.dtype]
    keys = indices.new_empty(B * k, dtype=torch.int32)
    wants_order = native.sparse_self_expression_wants_order()
    out = G.new_zeros(targets, d) if wants_order else G.new_empty(targets, d)
    order = None
    with _native.device_of(G):
        native.sparse_self_expression_keys(
            queue, indices.data_ptr(), indices.stride(0), n, row_offset, k, N, _native.pointer(rows), B,
            _native.pointer(slot), zero_diagonal, bank, live, targets, keys.data_ptr(),
        )  # fmt: skip
        if wants_order:
            keys, order = torch.sort(keys, stable=True)
        scratch = G.new_empty(
            native.sparse_self_expression_transposed_scratch(dtype, queue, B * k, targets, d), dtype=torch.uint8
        )
        native.sparse_self_expression_transposed(
            dtype, queue, keys.data_ptr(), _native.pointer(order), targets, values.data_ptr(), values.stride(0),
            row_offset, k, _native.pointer(rows), B, G.data_ptr(), G.stride(0), d, scratch.data_ptr(), out.data_ptr(),
        )  # fmt: skip
    return out


def _transposed_fake(
    G: Tensor, values: Tensor, indices: Tensor, rows: Tensor | None, N: int, spliced: bool, bank: bool, live: bool,
    zero_diagonal: bool, row_offset: int,
) -> Tensor:  # fmt: skip
    return G.new_empty((N if bank else 0) + (G.shape[0] if live else 0), G.shape[1])


_grad_op = register(
    "sparse_self_expression_grad(Tensor G, Tensor indices, Tensor M, Tensor? rows, Tensor? Z, bool zero_diagonal,"
    " int row_offset) -> Tensor",
    kernel=_grad_kernel,
    fake=_grad_fake,
    autocast=True,
)
_transposed_op = register(
    "sparse_self_expression_transposed(Tensor G, Tensor values, Tensor indices, Tensor? rows, SymInt N, bool spliced,"
    " bool bank, bool live, bool zero_diagonal, int row_offset) -> Tensor",
    kernel=_transposed_kernel,
    fake=_transposed_fake,
    autocast=True,
)


def _into_rows(values: Tensor, local: Tensor, grad: Tensor) -> Tensor:
    """(n, k) with the batch's rows in place; those of duplicates are added in the order of the batch."""
    out = torch.zeros_like(values, memory_format=torch.contiguous_format)
    if values.is_cuda:  # index_add_ adds by atomics there, index_put_ sorts first
        return out.index_put_((local,), grad, accumulate=True)
    return out.index_add_(0, local, grad)


class _SparseSelfExpression(torch.autograd.Function):
    """Gradients for values, M and Z. Under ``create_graph`` the reference is differentiated instead."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(*arguments[:5])
        ctx.options = arguments[5:]
        with below_autograd():
            out: Tensor = _op(*arguments)
        return out

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, indices, M, rows, Z = ctx.saved_tensors
        zero_diagonal, row_offset, sparse_grad = ctx.options
        wants_values, _, wants_M, _, wants_Z, *_ = ctx.needs_input_grad
        dvalues = dM = dZ = None
        if torch.is_grad_enabled():
            out = reference.sparse_self_expression(values, indices, M, rows, Z, zero_diagonal, row_offset)
            wanted = ((values, wants_values), (M, wants_M), (Z, wants_Z))
            inputs = [x for x, wants in wanted if wants]
            found = iter(torch.autograd.grad(out, inputs, G, create_graph=True))
            dvalues, dM, dZ = (next(found) if wants else None for _, wants in wanted)
            return dvalues, None, dM, None, dZ, None, None, None
        if wants_values:
            grad = _grad_op(G, indices, M, rows, Z, zero_diagonal, row_offset)
            if rows is None:
                dvalues = grad
            elif sparse_grad:
                dvalues = torch.sparse_coo_tensor((rows - row_offset)[None], grad, values.shape, check_invariants=False)
            else:
                dvalues = _into_rows(values, rows - row_offset, grad)
        if wants_M or wants_Z:
            N = M.shape[0]
            found = _transposed_op(
                G, values, indices, rows, N, Z is not None, wants_M, wants_Z, zero_diagonal, row_offset
            )
            if wants_M:
                dM = found.narrow(0, 0, N).to(M.dtype)
            if wants_Z:
                dZ = found.narrow(0, N if wants_M else 0, G.shape[0])
        return dvalues, None, dM, None, dZ, None, None, None


_op = register(
    "sparse_self_expression(Tensor values, Tensor indices, Tensor M, Tensor? rows, Tensor? Z, bool zero_diagonal,"
    " int row_offset, bool sparse_grad) -> Tensor",
    kernel=_kernel,
    fake=_fake,
    autograd=_SparseSelfExpression,
    autocast=True,
)


def sparse_self_expression(
    values: Tensor,
    indices: Tensor,
    M: Tensor,
    *,
    rows: Tensor | None = None,
    Z: Tensor | None = None,
    zero_diagonal: bool = True,
    row_offset: int = 0,
    sparse_grad: bool = False,
) -> Tensor:
    r"""Express each row as a combination of k others: :math:`\hat Z_b = \sum_s v_{r_b s}\, M'_{i_{r_b s}}`.

    Here v are the values and i the indices. It is :func:`self_expression` on a coefficient matrix with k entries a row,
    and takes the same options.

    Args:
        values: (N, k) coefficients, float32 or float64; or rows ``row_offset .. row_offset + n`` of them as (n, k).
        indices: the same shape, int64: the columns of the coefficients, as ``topk_coefficients`` gives them. A
            negative one is padding: its value counts for nothing. Columns need not be sorted; those repeated in a row
            add up.
        M: (N, d) memory bank; the dtype of ``values``, or float16 or bfloat16 beside float32 values. It is widened on
            the way in, and everything is computed in the dtype of ``values``.
        rows: (B,) int64 global sample indices of the batch. ``None``: every row of ``values``.
        Z: (B, d) live latent rows, of the dtype of ``values``. They replace rows ``rows`` of M for this product (the
            last duplicate wins) and receive gradient; ``None`` leaves the bank as it is.
        zero_diagonal: leave out an entry that names its own row, as if it were padding. Such entries never come from
            ``topk_coefficients``. Against m landmarks instead of samples it has to be ``False``.
        row_offset: global index of the first row of ``values``, when that is a shard.
        sparse_grad: give ``values.grad`` as a sparse COO tensor holding the batch's rows alone, for
            :class:`dsc_ext.optim.RowAdam`. Without ``rows`` the gradient is dense: all rows have one.

    Returns:
        Ẑ, (B, d) or (n, d), contiguous, of the dtype of ``values``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.
        IndexError: (CPU) a row outside ``values`` or an index of N or more; on CUDA a device-side assertion.

    Cost: 2·B·k·d FLOP, reads B·k·d numbers of the bank, from wherever they are cached; nothing is copied. Backward: the
    same again for ``values``, and for M and Z together, those after sorting the B·k entries. The gradient of M is
    dense, N·d.
    Twice differentiable (through the reference, which makes B·k·d numbers). Deterministic: fixed summation order.
    Under autocast everything is computed in float32 (a 16-bit bank is then widened as a whole, not on the way in).

    Source: Ji et al., *Deep Subspace Clustering Networks*, NIPS 2017, §3; You et al., CVPR 2016, for the size of k.

    Example:
        >>> values, indices = torch.tensor([[2.0, 1.0]]), torch.tensor([[3, -1]])
        >>> sparse_self_expression(values, indices, torch.eye(4))
        tensor([[0., 0., 0., 2.]])
    """
    if not (isinstance(values, Tensor) and isinstance(indices, Tensor) and isinstance(M, Tensor)):
        check_operands(_NAME, values, indices, M, rows, Z, zero_diagonal, row_offset)  # says so in our words
    return _op(values, indices, M, rows, Z, zero_diagonal, row_offset, sparse_grad)
