"""Steps of an optimizer on rows of coefficients, from their gradient or from that of Ẑ."""

from __future__ import annotations

import torch
from torch import Tensor

from dsc_ext.reference.batches import splice, without_diagonal
from dsc_ext.reference.sparse import sparse_self_expression_grad


def row_adam_(
    C: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor, rows: Tensor | None, grad: Tensor,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, l1: float,
) -> None:  # fmt: skip
    """Step rows ``rows`` of C by Adam (Kingma & Ba 2015), each row with its own step count.

    Duplicate rows add their gradients.
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
    """Apply the bijection of 32 bits of csrc/common/row_step.h, on int64 numbers below 2³²."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)


def rounding_noise(row: Tensor, count: Tensor, columns: int) -> Tensor:
    """Return (B, columns) int64: 32 random bits for each element of global rows ``row`` (B,) at step ``count``."""
    seed = _scrambled((row & 0xFFFFFFFF) ^ _scrambled((row >> 32) ^ _scrambled(count & 0xFFFFFFFF)))
    return _scrambled((seed[:, None] + torch.arange(columns, device=row.device)) & 0xFFFFFFFF)


def stochastic_bf16(value: Tensor, noise: Tensor) -> Tensor:
    """Round float32 ``value`` to bfloat16, up with the probability of what is cut off; ``noise`` has 16 bits."""
    bits = value.view(torch.int32).long() & 0xFFFFFFFF
    cut = torch.where(value.isnan(), bits | 0x400000, bits + noise) >> 16
    return cut.to(torch.int16).view(torch.bfloat16)


def self_expression_step_(
    C: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None, G: Tensor, M: Tensor,
    rows: Tensor | None, Z: Tensor | None, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    decoupled: bool, l1: float, proximal: bool, zero_diagonal: bool, row_offset: int,
    grad_scale: Tensor | None = None, found_inf: Tensor | None = None,
) -> None:  # fmt: skip
    """Step the batch's rows of C once from G = ∂L/∂Ẑ: Adam, AdamW or ISTA on dC = G M'ᵀ off the diagonal."""
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
    """Step by Adam, AdamW or ISTA the distinct global rows ``target`` of C, whose gradient of the data is ``grad``."""
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
    values: Tensor, indices: Tensor, exp_avg: Tensor | None, exp_avg_sq: Tensor | None, step: Tensor | None,
    G: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, decoupled: bool, l1: float, proximal: bool, zero_diagonal: bool, row_offset: int,
    grad_scale: Tensor | None = None, found_inf: Tensor | None = None,
) -> None:  # fmt: skip
    """Step the batch's rows of values once from G = ∂L/∂Ẑ: Adam, AdamW or ISTA on ⟨G_b, M'[indices[r_b, s]]⟩."""
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
