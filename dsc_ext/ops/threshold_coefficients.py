"""threshold_coefficients: thrC of DSC-Net, each row cut down to its few largest coefficients.

Source: Ji et al., NIPS 2017, released post-processing (``thrC``). The release thresholds columns although its C is used
as C Z with samples as rows; here a row is a sample and rows are thresholded. Pass ``C.T`` for the release's reading.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dsc_ext import _checks, _native, reference
from dsc_ext._torch import below_autograd
from dsc_ext.ops._register import register

_NAME = "threshold_coefficients"


def _check(C: Tensor, rho: float) -> None:
    _checks.tensor(_NAME, "C", C, 2, _checks.REAL)
    if math.isnan(rho) or rho < 0:
        _checks.fail(_NAME, f"rho must be a share of the row's l1 norm, 0 or more, got {rho}")


def _kernel(C: Tensor, rho: float) -> Tensor:
    _check(C, rho)
    native = _native.backend(C)
    if native is None:
        return reference.threshold_coefficients(C, rho)
    if rho >= 1:
        return C.clone(memory_format=torch.contiguous_format)
    out = torch.empty_like(C, memory_format=torch.contiguous_format)
    if out.numel():
        C = _native.row_major(C)
        scratch = native.threshold_coefficients_scratch(C.shape[1], _native.queue(C))
        workspace = C.new_empty(scratch, dtype=torch.uint8)
        with _native.device_of(C):
            native.threshold_coefficients(
                _native.DTYPES[C.dtype], _native.queue(C),
                C.data_ptr(), C.stride(0), C.shape[0], C.shape[1], rho, workspace.data_ptr(), out.data_ptr(),
            )  # fmt: skip
    return out


def _fake(C: Tensor, rho: float) -> Tensor:
    _check(C, rho)
    return torch.empty_like(C, memory_format=torch.contiguous_format)


class _Threshold(torch.autograd.Function):
    """The gradient passes where a coefficient was kept (the kept set is locally constant)."""

    @staticmethod
    def forward(ctx: Any, C: Tensor, rho: float) -> Tensor:  # type: ignore[override]
        with below_autograd():
            out: Tensor = _op(C, rho)
        ctx.save_for_backward(None if rho >= 1 else out != 0)
        return out

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return G.clone() if kept is None else G * kept, None


_op = register(
    "threshold_coefficients(Tensor C, float rho) -> Tensor",
    kernel=_kernel,
    fake=_fake,
    autograd=_Threshold,
    autocast=True,
)


def threshold_coefficients(C: Tensor, rho: float) -> Tensor:
    """Keep of each row the smallest set of largest |c| whose sum exceeds ``rho`` of its ℓ1 norm; zero the rest.

    The entry that carries the sum over the threshold is kept. Ties go to the lowest column. ``rho >= 1`` keeps
    everything, a zero row stays zero, and a row whose ℓ1 norm is not finite is returned as it came, so that NaN stays
    visible.

    Args:
        C: (n, m) coefficients, float32 or float64, signs kept.
        rho: share of the ℓ1 norm, ≥ 0 (DSC-Net: 0.04 for COIL, 0.2 for ORL).

    Returns:
        (n, m), contiguous, same dtype.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, dtype or range, by name.

    Cost: O(n m) expected on the CPU (selection, not sorting), one block per row on CUDA; sums are taken in float64.
    Differentiable: the gradient passes where a non-zero coefficient was kept. Deterministic. Under autocast everything
    is computed in float32.

    Source: Ji et al., *Deep Subspace Clustering Networks*, NIPS 2017, released code (thrC).

    Example:
        >>> threshold_coefficients(torch.tensor([[0.5, -3.0, 1.0, 0.0]]), 0.8)
        tensor([[ 0., -3.,  1.,  0.]])
    """
    return _op(C, rho)
