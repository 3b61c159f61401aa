"""self_expression: Ẑ = C M', the layer at the heart of deep subspace clustering, for a batch against the bank.

    Ẑ_b = Σ_{j ≠ r_b} C[r_b, j] M'_j,     M' = the bank M with rows r replaced by the live batch Z

Source: DSC-Net (Ji et al., NIPS 2017, §3) with all rows; BDSC (arXiv 2507.19917, §3.1) against a memory bank.

What is a kernel and what is a library call, and why: the forward gathers rows of C, skips the diagonal and reads
spliced rows where they lie, so nothing is copied; the gradients are single GEMMs whose corrections (diagonal, spliced
columns) touch O(B² + B d) elements afterwards, which no kernel of ours would beat. With ``rows=None`` the forward is
one GEMM as well, but for small d on a CPU, where the kernel waits less for C.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsc_ext import _checks, _native, reference
from dsc_ext._torch import below_autograd, plain, undispatched
from dsc_ext.ops._register import register

_NAME = "self_expression"
_FULL_BATCH_DIM = 128  # up to this d the kernel is the faster one on a CPU even where no row has to be gathered


def check_operands(
    op: str, C: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None, zero_diagonal: bool, row_offset: int
) -> None:
    """Refuse what neither the op nor its fused step can take of the arguments they share."""
    _checks.tensor(op, "C", C, 2, _checks.REAL)
    _checks.tensor(op, "M", M, 2, (C.dtype,), C)
    if M.shape[0] != C.shape[1]:
        _checks.fail(op, f"M must be (N, d) with N = C.shape[1] = {C.shape[1]}, got {tuple(M.shape)}")
    _checks.batch(op, "C", C, M, rows, Z, zero_diagonal, row_offset)


def _kernel(
    C: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None, zero_diagonal: bool, row_offset: int, sparse_grad: bool
) -> Tensor:
    check_operands(_NAME, C, M, rows, Z, zero_diagonal, row_offset)
    (n, N), d = C.shape, M.shape[1]
    native = _native.backend(C)
    if rows is None and (native is None or not C.is_cpu or d > _FULL_BATCH_DIM):
        out = C @ M
        if zero_diagonal:
            out.addcmul_(C.diagonal(row_offset)[:, None], M.narrow(0, row_offset, n), value=-1)
        return out
    if rows is None:
        rows = torch.arange(row_offset, row_offset + n)
    if native is None:
        return reference.self_expression(C, M, rows, Z, zero_diagonal, row_offset)
    B = rows.shape[0]
    out = M.new_empty(B, d)
    if B == 0 or d == 0:
        return out
    C, M, rows = _native.row_major(C), _native.row_major(M), rows.contiguous()
    slot = None
    if Z is not None:
        Z = _native.row_major(Z)
        slot = rows.new_empty(N, dtype=torch.int32)
    splits = native.self_expression_splits(B, N, d)
    partial = out if splits == 1 else M.new_empty(splits, B, d)
    with _native.device_of(C):
        native.self_expression(
            _native.DTYPES[C.dtype], _native.queue(C), _native.tf32(C),
            C.data_ptr(), C.stride(0), n, row_offset,
            M.data_ptr(), M.stride(0), N, d,
            rows.data_ptr(), B,
            _native.pointer(Z), 0 if Z is None else Z.stride(0), _native.pointer(slot),
            zero_diagonal, splits, partial.data_ptr(), out.data_ptr(),
        )  # fmt: skip
    return out


def _fake(
    C: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None, zero_diagonal: bool, row_offset: int, sparse_grad: bool
) -> Tensor:
    check_operands(_NAME, C, M, rows, Z, zero_diagonal, row_offset)
    return M.new_empty(C.shape[0] if rows is None else rows.shape[0], M.shape[1])


class _SelfExpression(torch.autograd.Function):
    """Gradients for C (the batch's rows), M and Z. Under ``create_graph`` the reference is differentiated instead."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(*arguments[:4])
        ctx.options = arguments[4:]
        return _kernel(*arguments)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        C, M, rows, Z = ctx.saved_tensors
        zero_diagonal, row_offset, sparse_grad = ctx.options
        wanted = ctx.needs_input_grad
        dC = dM = dZ = None
        if torch.is_grad_enabled():
            out = reference.self_expression(C, M, rows, Z, zero_diagonal, row_offset)
            inputs = [x for x, wants in zip((C, M, rows, Z), wanted, strict=False) if wants]
            found = iter(torch.autograd.grad(out, inputs, G, create_graph=True))
            dC, dM, dZ = (next(found) if wanted[i] else None for i in (0, 1, 3))
        elif rows is None:
            if wanted[0]:
                dC = G @ M.T
                if zero_diagonal:
                    dC.diagonal(row_offset).zero_()
            if wanted[1]:
                dM = grad_bank(C, G, None, None, zero_diagonal, row_offset)
        else:
            if wanted[0]:
                values = _grad_rows(G, M, rows, Z, zero_diagonal)
                local = rows - row_offset
                if sparse_grad:
                    dC = torch.sparse_coo_tensor(local[None], values, C.shape, check_invariants=False)
                else:
                    dC = torch.zeros_like(C).index_add_(0, local, values)
            if wanted[1]:
                dM = grad_bank(C, G, rows, Z, zero_diagonal, row_offset)
            if wanted[3]:
                dZ = grad_live(C, G, rows, zero_diagonal, row_offset)
        return dC, dM, None, dZ, None, None, None


class _DispatchedSelfExpression(_SelfExpression):
    """The same where something may be watching: the forward goes through the dispatcher, below autograd."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(*arguments[:4])
        ctx.options = arguments[4:]
        with below_autograd():
            out: Tensor = _op(*arguments)
        return out


def _grad_rows(G: Tensor, M: Tensor, rows: Tensor, Z: Tensor | None, zero_diagonal: bool) -> Tensor:
    """(B, N): ∂L/∂C[r_b, j] = ⟨G_b, M'_j⟩ for j ≠ r_b. One GEMM; live rows go into a copy of the bank, or their columns
    are put right afterwards, whichever moves less.
    """
    (N, d), B = M.shape, rows.shape[0]
    if Z is None:
        values = G @ M.T
    else:
        # Duplicates write the same place with the same values, those of the last: their order does not matter.
        live = Z[reference.last_occurrence(rows, N)]
        if N * d <= 32 * B * B:  # measured: a scattered column costs about 32 times what a copied number does
            values = G @ M.index_copy(0, rows, live).T
        else:
            values = (G @ M.T).index_copy_(1, rows, G @ live.T)
    if zero_diagonal:
        values.scatter_(1, rows[:, None], 0.0)
    return values


def grad_bank(
    C: Tensor, G: Tensor, rows: Tensor | None, Z: Tensor | None, zero_diagonal: bool, row_offset: int
) -> Tensor:
    """Return (N, d) ∂L/∂M = C[rows]ᵀ G without the diagonal; zero for rows that Z stood in for."""
    if rows is None:
        dM = C.T @ G
        if zero_diagonal:
            dM.narrow(0, row_offset, C.shape[0]).addcmul_(C.diagonal(row_offset)[:, None], G, value=-1)
        return dM
    C_rows = C.index_select(0, rows - row_offset)
    if zero_diagonal:
        C_rows = C_rows.scatter_(1, rows[:, None], 0.0)
    dM = C_rows.T @ G
    return dM if Z is None else dM.index_fill_(0, rows, 0.0)


def grad_live(C: Tensor, G: Tensor, rows: Tensor, zero_diagonal: bool, row_offset: int) -> Tensor:
    """Return (B, d) ∂L/∂Z_b = Σ_{b'} C[r_b', r_b] G_b', through the batch's own block of C.

    It is zero for duplicates that were lost to a later one.
    """
    (n, N), B = C.shape, rows.shape[0]
    native = _native.backend(C) if plain(C, G, rows) else None  # while tracing: operations it can see
    if native is None or B == 0:
        block = C[(rows - row_offset)[:, None], rows]
        lost = ~reference.is_last_occurrence(rows, N)
        block = block.masked_fill_(lost | (rows[:, None] == rows) if zero_diagonal else lost.expand(B, B), 0.0)
        return block.T @ G
    C, rows = _native.row_major(C), rows.contiguous()
    block, slot = C.new_empty(B, B), rows.new_empty(N, dtype=torch.int32)
    with _native.device_of(C):
        native.self_expression_block(
            _native.DTYPES[C.dtype], _native.queue(C),
            C.data_ptr(), C.stride(0), n, row_offset, N,
            rows.data_ptr(), B, slot.data_ptr(), zero_diagonal, block.data_ptr(),
        )  # fmt: skip
    return block.T @ G


_op = register(
    "self_expression(Tensor C, Tensor M, Tensor? rows, Tensor? Z, bool zero_diagonal, int row_offset, bool sparse_grad)"
    " -> Tensor",
    kernel=_kernel,
    fake=_fake,
    autograd=_DispatchedSelfExpression,
    autocast=True,
)
_apply = undispatched(_SelfExpression)


def self_expression(
    C: Tensor,
    M: Tensor,
    rows: Tensor | None = None,
    Z: Tensor | None = None,
    *,
    zero_diagonal: bool = True,
    row_offset: int = 0,
    sparse_grad: bool = False,
) -> Tensor:
    r"""Express each row as a linear combination of the others: :math:`\hat Z_b = \sum_{j \ne r_b} C[r_b, j]\, M'_j`.

    Args:
        C: (N, N) coefficient matrix, float32 or float64; or its rows ``row_offset .. row_offset + n`` as (n, N); or
            (n, m) against m landmarks with ``zero_diagonal=False``. Row i holds the coefficients of sample i.
        M: (N, d) memory bank, same dtype. Row-strided views are read in place.
        rows: (B,) int64 global sample indices of the batch. ``None``: every row of C, the classic full-batch layer.
        Z: (B, d) live latent rows. They replace rows ``rows`` of M for this product (the last duplicate wins) and
            receive gradient; ``None`` leaves the bank as it is.
        zero_diagonal: exclude each sample from its own combination.
        row_offset: global index of C's first row, when C is a shard.
        sparse_grad: give ``C.grad`` as a sparse COO tensor holding the batch's rows alone (B·N instead of N² numbers),
            for :class:`dsc_ext.optim.RowAdam`.

    Returns:
        Ẑ, (B, d) or (n, d), contiguous.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape or device, by name.
        IndexError: (CPU) a row outside C or the bank. On CUDA such a row trips a device-side assertion, as in PyTorch.

    Cost: 2·B·N·d FLOP, reads B·N + N·d numbers; with ``rows`` nothing of C or M is copied in the forward. Backward: one
    GEMM of the same size for C, B²·d for Z. Twice differentiable (through the reference, which copies the batch's
    rows).
    Deterministic: fixed summation order. Under autocast everything is computed in float32. On CUDA products of float32
    are exact (3xTF32 tensor cores) unless ``torch.set_float32_matmul_precision`` allows TF32.

    Source: Ji et al., *Deep Subspace Clustering Networks*, NIPS 2017, §3; BDSC, arXiv 2507.19917, §3.1.

    Example:
        >>> C, M = torch.zeros(4, 4), torch.eye(4)
        >>> C[1, 3] = 2.0
        >>> self_expression(C, M, torch.tensor([1]))
        tensor([[0., 0., 0., 2.]])
    """
    if plain(C, M, Z):
        wanted = C.requires_grad or M.requires_grad or (Z is not None and Z.requires_grad)
        run = _apply if wanted and torch.is_grad_enabled() else _kernel
        return run(C, M, rows, Z, zero_diagonal, row_offset, sparse_grad)
    if not (isinstance(C, Tensor) and isinstance(M, Tensor)):  # say so before the schema does, in other words
        check_operands(_NAME, C, M, rows, Z, zero_diagonal, row_offset)
    return _op(C, M, rows, Z, zero_diagonal, row_offset, sparse_grad)
