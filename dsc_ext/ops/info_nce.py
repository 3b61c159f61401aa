"""info_nce: the contrastive loss of a batch against the memory bank, and its gradient, without a B × N matrix.

    loss_b = -⟨a_b, p_b⟩/τ + log( exp(⟨a_b, p_b⟩/τ) + Σ_{j ≠ r_b, j ∉ mask_b} exp(⟨a_b, m_j⟩/τ) )

Source: InfoNCE (van den Oord et al., arXiv 1807.03748, eq. 4) against a bank of negatives (Wu et al., CVPR 2018; MoCo,
He et al., CVPR 2020), in the form of CLBDSC (arXiv 2507.19917, §3.4): the anchor is the self-expressed row, the
positive a second view, the negatives are the bank's detached rows.

The kernel makes one pass over the bank: an online softmax (Milakov & Gimelshein 2018) that, where a gradient is wanted,
sums the expected negative E_b = Σ_j softmax_j m_j along with it, as FlashAttention (Dao et al. 2022) does with values
equal to keys. With w_b = 1 - exp(-loss_b) the gradients are then w (E - p) / τ and -w a / τ, O(B d).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dsc_ext import _checks, _native, reference
from dsc_ext._torch import below_autograd
from dsc_ext.ops._register import register

_NAME = "info_nce"
_REDUCTIONS = ("mean", "sum", "none")


def _check(
    anchor: Tensor, positive: Tensor, bank: Tensor, rows: Tensor, mask: Tensor | None, temperature: float
) -> None:
    _checks.tensor(_NAME, "anchor", anchor, 2, _checks.STORAGE)
    stored = (torch.float64,) if anchor.dtype == torch.float64 else (torch.float32, torch.float16, torch.bfloat16)
    B, d = anchor.shape
    _checks.tensor(_NAME, "positive", positive, 2, stored, anchor)
    if positive.shape != anchor.shape:
        _checks.fail(_NAME, f"positive must be (B, d) = {(B, d)} like anchor, got {tuple(positive.shape)}")
    _checks.tensor(_NAME, "bank", bank, 2, stored, anchor)
    if bank.shape[1] != d:
        _checks.fail(_NAME, f"bank must be (N, d) with d = anchor.shape[1] = {d}, got {tuple(bank.shape)}")
    _checks.tensor(_NAME, "rows", rows, 1, (torch.int64,), anchor)
    if rows.shape[0] != B:
        _checks.fail(_NAME, f"rows must be (B,) with B = anchor.shape[0] = {B}, got {tuple(rows.shape)}")
    if mask is not None:
        _checks.tensor(_NAME, "mask", mask, 2, (torch.int64,), anchor)
        if mask.shape[0] != B:
            _checks.fail(_NAME, f"mask must be (B, q) with B = anchor.shape[0] = {B}, got {tuple(mask.shape)}")
    if not (math.isfinite(temperature) and temperature > 0):
        _checks.fail(_NAME, f"temperature must be positive and finite, got {temperature}")


def _run(
    anchor: Tensor, positive: Tensor, bank: Tensor, rows: Tensor, mask: Tensor | None, temperature: float,
    *, expected: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The loss (B,), and the expected negatives (B, d) if wanted."""
    _check(anchor, positive, bank, rows, mask, temperature)
    compute = _checks.accumulation_dtype(anchor)
    native = _native.backend(anchor)
    if native is None:
        with torch.autocast(anchor.device.type, enabled=False):
            if expected:
                return reference.info_nce_expected(anchor, positive, bank, rows, mask, temperature)
            return reference.info_nce(anchor, positive, bank, rows, mask, temperature), None
    B, d = anchor.shape
    N = bank.shape[0]
    loss = anchor.new_empty(B, dtype=compute)
    E = anchor.new_empty(B, d, dtype=compute) if expected else None
    if B == 0:
        return loss, E
    anchor, positive = _native.row_major(anchor.to(compute)), _native.row_major(positive.to(compute))
    if not native.info_nce_reads(_native.DTYPES[bank.dtype]):
        bank = bank.to(compute)
    bank, rows = _native.row_major(bank), rows.contiguous()
    mask = None if mask is None else mask.contiguous()
    q = 0 if mask is None else mask.shape[1]
    dtype = _native.DTYPES[bank.dtype]
    scratch = anchor.new_empty(native.info_nce_scratch(dtype, B, N, d, q, expected), dtype=torch.uint8)
    with _native.device_of(anchor):
        native.info_nce(
            dtype, _native.queue(anchor),
            anchor.data_ptr(), anchor.stride(0), positive.data_ptr(), positive.stride(0),
            bank.data_ptr(), bank.stride(0), B, N, d,
            rows.data_ptr(), _native.pointer(mask), q, temperature, _native.tf32(anchor),
            scratch.data_ptr(), loss.data_ptr(), _native.pointer(E),
        )  # fmt: skip
    return loss, E


def _kernel(*arguments: Any) -> Tensor:
    return _run(*arguments, expected=False)[0]


def _kernel_expected(*arguments: Any) -> tuple[Tensor, Tensor]:
    loss, E = _run(*arguments, expected=True)
    assert E is not None
    return loss, E


def _fake(
    anchor: Tensor, positive: Tensor, bank: Tensor, rows: Tensor, mask: Tensor | None, temperature: float
) -> Tensor:
    _check(anchor, positive, bank, rows, mask, temperature)
    return anchor.new_empty(anchor.shape[0], dtype=_checks.accumulation_dtype(anchor))


def _fake_expected(anchor: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    loss = _fake(anchor, *arguments)
    return loss, anchor.new_empty(anchor.shape, dtype=loss.dtype)


class _InfoNCE(torch.autograd.Function):
    """Gradients for anchor and positive. Under ``create_graph`` the reference is differentiated instead."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # type: ignore[override]
        with below_autograd():
            loss, E = _op_expected(*arguments) if ctx.needs_input_grad[0] else (_op(*arguments), None)
        ctx.save_for_backward(*arguments[:5], loss, E)
        ctx.temperature = arguments[5]
        return loss

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        anchor, positive, bank, rows, mask, loss, E = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        da = dp = None
        if torch.is_grad_enabled():
            with torch.autocast(anchor.device.type, enabled=False):
                again = reference.info_nce(anchor, positive, bank, rows, mask, ctx.temperature)
            inputs = [x for x, wants in zip((anchor, positive), wanted, strict=False) if wants]
            found = iter(torch.autograd.grad(again, inputs, G, create_graph=True))
            da, dp = (next(found) if wanted[i] else None for i in (0, 1))
        else:
            pull = (torch.expm1(-loss) * G).div_(-ctx.temperature)[:, None]  # w_b / τ times the gradient from above
            if wanted[0]:
                da = ((E - positive) * pull).to(anchor.dtype)
            if wanted[1]:
                dp = (anchor * -pull).to(positive.dtype)
        return da, dp, None, None, None, None


_ARGUMENTS = "Tensor anchor, Tensor positive, Tensor bank, Tensor rows, Tensor? mask, float temperature"
_op_expected = register(
    f"info_nce_expected({_ARGUMENTS}) -> (Tensor, Tensor)", kernel=_kernel_expected, fake=_fake_expected
)
_op = register(f"info_nce({_ARGUMENTS}) -> Tensor", kernel=_kernel, fake=_fake, autograd=_InfoNCE)


def info_nce(
    anchor: Tensor,
    positive: Tensor,
    bank: Tensor,
    rows: Tensor,
    *,
    temperature: float = 0.2,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Return the InfoNCE loss of each anchor: its positive against every other sample of the memory bank.

    .. math:: \ell_b = -\frac{\langle a_b, p_b\rangle}{\tau} + \log\Big(e^{\langle a_b, p_b\rangle/\tau}
              + \sum_{j \ne r_b,\ j \notin \mathrm{mask}_b} e^{\langle a_b, m_j\rangle/\tau}\Big)

    Similarities are plain inner products: for cosines, the usual choice, pass rows of unit length
    (``torch.nn.functional.normalize`` on anchor and positive, whose gradient then is autograd's; ``normalize=True`` of
    :func:`bank_scatter_`, or a bank normalized once, for the bank).

    Args:
        anchor: (B, d), float32, float64, float16 or bfloat16. CLBDSC: the self-expressed rows ẑ.
        positive: (B, d), a second view of the same samples. float64 goes with float64 alone; the others mix freely.
        bank: (N, d) memory bank. A detached memory: it receives no gradient, even if it requires one.
        rows: (B,) int64, each anchor's own sample, which is not among its negatives.
        temperature: τ > 0, a float. 0.2 is MoCo v2's; CLBDSC does not state its own (usual: 0.07 to 0.5).
        mask: (B, q) int64, further samples to leave out of each anchor's negatives as false ones, such as the columns
            of its largest coefficients (the indices :func:`topk_coefficients` gives). In any order, duplicates are
            harmless, negative entries are padding.
        reduction: ``"mean"`` or ``"sum"`` over the batch, or ``"none"``.

    Returns:
        The loss, a scalar or (B,); float64 for float64 inputs, else float32, in which everything is then accumulated
        (16-bit inputs included; on CUDA they are read as they are stored). An anchor without negatives has loss 0. NaN
        in an anchor, its positive or the bank gives NaN.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype, shape, range or device, by name.
        IndexError: (CPU) a row or a masked column outside the bank. On CUDA it trips a device-side assertion.

    Cost: 2·B·N·d FLOP, 4·B·N·d where anchor needs a gradient (on CUDA more from d = 129 on: the scores are formed anew
    for every 128 columns); the backward adds O(B d). Never B·N scores: beyond inputs and outputs at most 64 times the
    anchors on the CPU and 16896 rows of d on CUDA, and for the excluded ones at most a bit a score. With a 16-bit bank
    the CPU makes a float32 copy of it. On CUDA float32 products follow ``torch.set_float32_matmul_precision``. Twice
    differentiable (through the reference, which does hold B·N scores).
    Deterministic: fixed summation order. Under autocast nothing is cast: the loss is float32 whatever comes in.

    Source: van den Oord et al., arXiv 1807.03748, eq. 4; MoCo, He et al., CVPR 2020, eq. 1; CLBDSC, arXiv 2507.19917,
    §3.4.

    Example:
        >>> a, bank = torch.eye(2), torch.eye(4, 2)
        >>> info_nce(a, a, bank, torch.tensor([0, 1]), temperature=1.0)  # log(1 + 3 / e)
        tensor(0.7437)
    """
    if reduction not in _REDUCTIONS:
        _checks.fail(_NAME, f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if not (isinstance(anchor, Tensor) and isinstance(positive, Tensor) and isinstance(bank, Tensor)):
        _check(anchor, positive, bank, rows, mask, temperature)  # says so before the schema does, in other words
    loss: Tensor = _op(anchor, positive, bank, rows, mask, temperature)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()
