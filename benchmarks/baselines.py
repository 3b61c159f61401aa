"""What the ops are measured against: the layer people use, and the best PyTorch one can write without a kernel.

Owns plain PyTorch only; nothing of dsc_ext is used here. ``rows`` (B,) are the batch's samples in shuffled order, a
``slice`` stands for adjacent samples, ``None`` for all of them. C (N, N), bank (N, d), Z and G (B, d), as in dsc_ext.

The naive layer is the one of the DSC-Net reimplementations: ``(C - diag(diag(C))) @ Z`` over all N rows, gradients by
autograd, torch.optim.Adam on all of C. "Best" is what a careful author would do instead: touch the batch's rows alone,
zero the B diagonal entries in the copy that gathering makes anyway, no autograd graph over C, fused Adam.
"""

from __future__ import annotations

import torch
from torch import Tensor

Rows = Tensor | slice | None
BETAS, EPS = (0.9, 0.999), 1e-8


def live_bank(bank: Tensor, rows: Rows, Z: Tensor) -> Tensor:
    """The bank with the batch's rows live; out of place, so that the bank stays as it is."""
    if rows is None:
        return Z
    if isinstance(rows, slice):
        return torch.cat((bank[: rows.start], Z, bank[rows.stop :]))
    return bank.index_copy(0, rows, Z)


def live_bank_(bank: Tensor, rows: Rows, Z: Tensor) -> Tensor:
    """The same written into the bank itself, which training by index replacement does at the end of its step anyway."""
    if rows is None:
        return Z
    if isinstance(rows, slice):
        bank[rows] = Z
        return bank
    return bank.index_copy_(0, rows, Z)


def gather(C: Tensor, rows: Tensor) -> Tensor:
    return C.index_select(0, rows).scatter_(1, rows[:, None], 0.0)


# ---------------------------------------------------------------------------------------------------------- forward


def naive(C: Tensor, bank: Tensor, rows: Rows, Z: Tensor) -> Tensor:
    Z_hat = (C - torch.diag(torch.diag(C))) @ live_bank(bank, rows, Z)
    return Z_hat if rows is None else Z_hat[rows]


def splice(C: Tensor, bank: Tensor, rows: Tensor, Z: Tensor) -> Tensor:
    """Live rows written into a copy of the bank."""
    return gather(C, rows) @ live_bank(bank, rows, Z)


def correction(C: Tensor, bank: Tensor, rows: Tensor, Z: Tensor) -> Tensor:
    """The stale bank is multiplied, then a product of rank B puts the difference right."""
    C_rows = gather(C, rows)
    return torch.addmm(C_rows @ bank, C_rows.index_select(1, rows), Z - bank.index_select(0, rows))


def overwrite(C: Tensor, bank: Tensor, rows: Tensor, Z: Tensor) -> Tensor:
    """Live rows written into the bank itself, where the caller can spare the old ones."""
    return gather(C, rows) @ live_bank_(bank, rows, Z)


def adjacent(C: Tensor, bank: Tensor, rows: slice, Z: Tensor) -> Tensor:
    """Adjacent rows need no gathering: C is read in place, diagonal and live rows are put right by a rank-B product."""
    block = C[rows, rows]
    Z_hat = torch.addmm(C[rows] @ bank, block, Z - bank[rows])
    return Z_hat.addcmul_(block.diagonal()[:, None], Z, value=-1)


def whole(C: Tensor, bank: Tensor, rows: None, Z: Tensor) -> Tensor:
    """Full batch: one GEMM and a rank-one correction for the diagonal."""
    return (C @ Z).addcmul_(C.diagonal()[:, None], Z, value=-1)


# ------------------------------------------------------------------------- forward and backward: Ẑ, ∂/∂C (rows), ∂/∂Z


def naive_gradients(C: Tensor, bank: Tensor, rows: Rows, Z: Tensor, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    C, Z = C.detach().requires_grad_(), Z.detach().requires_grad_()
    Z_hat = naive(C, bank, rows, Z)
    Z_hat.backward(G)
    assert C.grad is not None and Z.grad is not None
    return Z_hat, C.grad, Z.grad


def splice_gradients(C: Tensor, bank: Tensor, rows: Tensor, Z: Tensor, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return overwrite_gradients(C, bank.clone(), rows, Z, G)


def overwrite_gradients(C: Tensor, bank: Tensor, rows: Tensor, Z: Tensor, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    C_rows, M = gather(C, rows), live_bank_(bank, rows, Z)
    return C_rows @ M, (G @ M.T).scatter_(1, rows[:, None], 0.0), C_rows.index_select(1, rows).T @ G


def adjacent_gradients(C: Tensor, bank: Tensor, rows: slice, Z: Tensor, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    block = C[rows, rows]
    diagonal = block.diagonal()[:, None]
    Z_hat = torch.addmm(C[rows] @ bank, block, Z - bank[rows]).addcmul_(diagonal, Z, value=-1)
    dC = G @ bank.T
    dC[:, rows] = G @ Z.T
    dC[:, rows].fill_diagonal_(0.0)
    return Z_hat, dC, (block.T @ G).addcmul_(diagonal, G, value=-1)


def whole_gradients(C: Tensor, bank: Tensor, rows: None, Z: Tensor, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    diagonal = C.diagonal()[:, None]
    Z_hat = (C @ Z).addcmul_(diagonal, Z, value=-1)
    return Z_hat, (G @ Z.T).fill_diagonal_(0.0), (C.T @ G).addcmul_(diagonal, G, value=-1)


# ------------------------------------------- one step of C on ‖Z − Ẑ‖² + λ‖C‖²: each is called with (bank, rows, Z)


class NaiveStep:
    """Dense autograd over N×N and torch.optim.Adam on all of C: rows outside the batch move as well."""

    def __init__(self, C: Tensor, penalty: float, lr: float) -> None:
        self.C, self.penalty = C.requires_grad_(), penalty
        self.optimizer = torch.optim.Adam([self.C], lr, BETAS, EPS)

    def __call__(self, bank: Tensor, rows: Rows, Z: Tensor) -> None:
        Z_hat = naive(self.C, bank, rows, Z)
        loss = (Z - Z_hat).square().sum() + self.penalty * self.C.square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        moments = self.optimizer.state[self.C]
        return self.C.detach(), moments["exp_avg"], moments["exp_avg_sq"]


class RowStep:
    """C, its moments and one step count per row, without autograd. The best PyTorch variants differ in ``__call__``."""

    def __init__(self, C: Tensor, penalty: float, lr: float) -> None:
        self.C, self.penalty, self.lr = C, penalty, lr
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(C), torch.zeros_like(C)
        self.step = torch.zeros(C.shape[0], device=C.device)
        self.steps = self.step.unbind()

    def adam(self, C: list[Tensor], grad: list[Tensor], m: list[Tensor], v: list[Tensor], step: list[Tensor]) -> None:
        torch._fused_adam_(
            C, grad, m, v, [], step, lr=self.lr, beta1=BETAS[0], beta2=BETAS[1], eps=EPS,
            weight_decay=2 * self.penalty, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.C, self.exp_avg, self.exp_avg_sq


def batch_gradient(C_rows: Tensor, M: Tensor, rows: Tensor, Z: Tensor) -> Tensor:
    """(B, N): ∂‖Z − Ẑ‖²/∂C for rows whose diagonal is zero already."""
    G = (C_rows @ M).sub_(Z).mul_(2.0)
    return (G @ M.T).scatter_(1, rows[:, None], 0.0)


class GatherStep(RowStep):
    """Rows of C and of both moments are gathered, stepped as one matrix each and copied back.

    All of the batch at once, or ``block`` rows at a time, which stay in the cache meanwhile.
    """

    def __init__(self, C: Tensor, penalty: float, lr: float, block: int | None = None) -> None:
        super().__init__(C, penalty, lr)
        self.block = block

    def __call__(self, bank: Tensor, rows: Tensor, Z: Tensor) -> None:
        M = live_bank_(bank, rows, Z)
        block = self.block or len(rows)
        for part, Z_part in zip(rows.split(block), Z.split(block), strict=True):
            self.step_rows(M, part, Z_part)

    def step_rows(self, M: Tensor, rows: Tensor, Z: Tensor) -> None:
        C_rows = self.C.index_select(0, rows)
        diagonal = C_rows.gather(1, rows[:, None])
        C_rows.scatter_(1, rows[:, None], 0.0)
        grad = batch_gradient(C_rows, M, rows, Z)
        C_rows.scatter_(1, rows[:, None], diagonal)
        m, v = self.exp_avg.index_select(0, rows), self.exp_avg_sq.index_select(0, rows)
        self.step[rows] += 1  # a fixed partition into batches, so one count holds for the whole batch
        self.adam([C_rows], [grad], [m], [v], [self.step[rows[:1]]])
        for whole_matrix, part in ((self.C, C_rows), (self.exp_avg, m), (self.exp_avg_sq, v)):
            whole_matrix.index_copy_(0, rows, part)


class ViewStep(RowStep):
    """Rows of C are gathered for the product alone; fused Adam is handed the B rows of C and the moments as views."""

    def __init__(self, C: Tensor, penalty: float, lr: float) -> None:
        super().__init__(C, penalty, lr)
        self.views = [tensor.unbind() for tensor in (self.C, self.exp_avg, self.exp_avg_sq)]

    def __call__(self, bank: Tensor, rows: Tensor, Z: Tensor) -> None:
        grad = batch_gradient(gather(self.C, rows), live_bank_(bank, rows, Z), rows, Z)
        self.step[rows] += 1
        samples = rows.tolist()
        C, m, v = ([view[sample] for sample in samples] for view in self.views)
        self.adam(C, list(grad.unbind()), m, v, [self.steps[sample] for sample in samples])


class BlockStep(RowStep):
    """Adjacent rows, or all of them, in blocks that stay in the cache from their product to their update.

    Nothing of C or the moments is copied, and no more of the gradient exists than one block. ``block=None`` takes all
    rows at once, with a gradient as large as they are. ``one_product`` reads C twice: once for the product with all of
    Z, which a library does faster than in blocks, and again for the update.
    """

    def __init__(self, C: Tensor, penalty: float, lr: float, block: int | None, one_product: bool = False) -> None:
        super().__init__(C, penalty, lr)
        self.block, self.one_product = block, one_product

    def __call__(self, bank: Tensor, rows: slice | None, Z: Tensor) -> None:
        first, last = (0, self.C.shape[0]) if rows is None else (rows.start, rows.stop)
        M = live_bank_(bank, rows, Z)
        block = self.block or last - first
        self.step[first:last] += 1
        buffer = self.C.new_empty(min(block, last - first), self.C.shape[1])
        product = self.C[first:last] @ M if self.one_product else None
        for begin in range(first, last, block):
            end = min(begin + block, last)
            C = self.C[begin:end]
            diagonal = C[:, begin:end].diagonal()[:, None]
            own = Z[begin - first : end - first]
            Z_hat = C @ M if product is None else product[begin - first : end - first]
            G = Z_hat.addcmul_(diagonal, own, value=-1).sub_(own).mul_(2.0)
            grad = torch.mm(G, M.T, out=buffer[: end - begin])
            grad[:, begin:end].fill_diagonal_(0.0)
            self.adam([C], [grad], [self.exp_avg[begin:end]], [self.exp_avg_sq[begin:end]], [self.steps[begin]])


def _written_out(
    C: Tensor, moments: tuple[Tensor, Tensor], step: Tensor, bank: Tensor, rows: Tensor | None, Z: Tensor,
    lr: float, decay: float,
) -> None:  # fmt: skip
    """The whole step in single tensor operations, for torch.compile to fuse as it can."""
    m, v = moments
    M = live_bank(bank, rows, Z)
    samples = torch.arange(C.shape[0], device=C.device) if rows is None else rows
    own, m_own, v_own = (C, m, v) if rows is None else (x.index_select(0, rows) for x in (C, m, v))
    off_diagonal = samples[:, None] != torch.arange(C.shape[1], device=C.device)[None, :]
    G = 2.0 * ((own * off_diagonal) @ M - Z)
    grad = (G @ M.T) * off_diagonal + decay * own
    m_new = torch.lerp(m_own, grad, 1.0 - BETAS[0])
    v_new = BETAS[1] * v_own + (1.0 - BETAS[1]) * grad * grad
    count = step[samples][:, None] + 1.0
    size, root = lr / (1.0 - BETAS[0] ** count), (1.0 - BETAS[1] ** count).sqrt()
    new = own - size * m_new / (v_new.sqrt() / root + EPS)
    for target, value in ((C, new), (m, m_new), (v, v_new)):
        target.copy_(value) if rows is None else target.index_copy_(0, rows, value)
    step.index_copy_(0, samples, count[:, 0])


class CompiledStep(RowStep):
    """torch.compile of the step written out."""

    def __init__(self, C: Tensor, penalty: float, lr: float) -> None:
        super().__init__(C, penalty, lr)
        self.compiled = torch.compile(_written_out, dynamic=False)

    def __call__(self, bank: Tensor, rows: Tensor | None, Z: Tensor) -> None:
        moments = (self.exp_avg, self.exp_avg_sq)
        self.compiled(self.C, moments, self.step, bank, rows, Z, self.lr, 2.0 * self.penalty)
