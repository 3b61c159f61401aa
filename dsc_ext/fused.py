"""Self-expression whose backward pass steps C: what SelfExpressiveCUDA(n, fused_adam=FusedAdam(...)) runs on.

The optimizer of C moves into the backward pass, so that the gradient of C never exists. Owns the settings and the order
of things: gradients of the bank and of the live rows from C as the forward pass saw it, then the step. The arithmetic
is that of ``self_expression`` and ``self_expression_step_``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dsc_ext.ops.self_expression import grad_bank, grad_live, self_expression
from dsc_ext.ops.self_expression_step import self_expression_step_

if TYPE_CHECKING:
    from dsc_ext.nn import SelfExpressiveCUDA


@dataclass(frozen=True)
class FusedAdam:
    """How the backward pass of :class:`dsc_ext.nn.SelfExpressiveCUDA` steps its coefficients.

    Args:
        lr: step size to begin with; ``layer.lr`` is the one in force, and may be set between steps.
        betas, eps: as in ``torch.optim.Adam``.
        weight_decay: L2, coupled (the loss term ``λ‖C‖_F²`` is ``weight_decay = 2λ``), or as in ``torch.optim.AdamW``
            where ``decoupled``.
        l1: the loss term ``λ‖C‖₁`` is ``l1 = λ``.
        proximal: ISTA steps instead of Adam: exact zeros, no moments, 4·N² bytes in all.
        moments: ``torch.bfloat16`` keeps both moments in two bytes each (8·N² bytes in all), rounded stochastically;
            ``None`` in the dtype of C (12·N²).

    Raises:
        ValueError: a setting out of range, by name.

    See :func:`dsc_ext.self_expression_step_` for what each of them does.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    l1: float = 0.0
    proximal: bool = False
    moments: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "weight_decay", "l1"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"FusedAdam: {name} must be 0 or more, got {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"FusedAdam: betas must be in [0, 1), got {self.betas}")
        if self.moments not in (None, torch.float32, torch.float64, torch.bfloat16):
            raise ValueError(f"FusedAdam: moments must be a float32, float64 or bfloat16 dtype, got {self.moments}")


def _step(
    layer: SelfExpressiveCUDA, settings: FusedAdam, G: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None
) -> None:
    """Steps the layer's C from G = ∂L/∂Ẑ, or counts a step skipped unless all of G is finite. Waits for no device."""
    if G.numel() == 0:
        return
    least, largest = torch.aminmax(G)  # in one pass: NaN where any of G is
    found_inf = ((largest - largest) + (least - least)).float()  # zero, or NaN
    layer.skipped_steps += found_inf != 0
    scaler = layer.grad_scaler
    with_moments = not settings.proximal
    self_expression_step_(
        layer.Coefficient,
        layer.exp_avg if with_moments else None,
        layer.exp_avg_sq if with_moments else None,
        layer.row_step if with_moments else None,
        G,
        M,
        rows,
        Z,
        lr=layer.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        decoupled=settings.decoupled,
        l1=settings.l1,
        proximal=settings.proximal,
        zero_diagonal=layer.zero_diagonal,
        grad_scale=scaler._get_scale_async() if scaler is not None and scaler.is_enabled() else None,
        found_inf=found_inf,
    )


class _SteppingSelfExpression(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, C: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None, layer: SelfExpressiveCUDA
    ) -> Tensor:
        # C is not saved for the backward pass, so that its checks below speak and not autograd's.
        ctx.save_for_backward(M, rows, Z)
        ctx.layer, ctx.version, ctx.stepped = layer, C._version, False
        return self_expression(C, M, rows, Z, zero_diagonal=layer.zero_diagonal)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        layer: SelfExpressiveCUDA = ctx.layer
        C = layer.Coefficient
        if torch.is_grad_enabled():
            raise RuntimeError(
                "SelfExpressiveCUDA: with fused_adam the backward pass steps C and cannot be differentiated again, got "
                "create_graph=True; use the layer without fused_adam, with RowAdam"
            )
        if ctx.stepped:
            raise RuntimeError(
                "SelfExpressiveCUDA: with fused_adam each forward pass has one backward pass, got a second one "
                "(retain_graph=True), which would step C twice"
            )
        if C._version != ctx.version:
            raise RuntimeError(
                "SelfExpressiveCUDA: with fused_adam the backward pass must come before C changes again, got a C that "
                "has been stepped or written since this forward pass: call backward() after each forward()"
            )
        M, rows, Z = ctx.saved_tensors
        G = G.detach()
        dM = grad_bank(C, G, rows, Z, layer.zero_diagonal, 0) if ctx.needs_input_grad[1] else None
        dZ = grad_live(C, G, rows, layer.zero_diagonal, 0) if ctx.needs_input_grad[3] else None
        ctx.stepped = True
        assert layer.fused_adam is not None
        _step(layer, layer.fused_adam, G, M, rows, Z)
        return None, dM, None, dZ, None


def stepping_self_expression(layer: SelfExpressiveCUDA, M: Tensor, rows: Tensor | None, Z: Tensor | None) -> Tensor:
    """Ẑ of the layer, (B, d) or (N, d), whose backward pass steps the layer's C."""
    run = _outside_graphs() if torch.compiler.is_compiling() else _stepping_self_expression
    out: Tensor = run(layer, M, rows, Z)
    return out


@functools.cache
def _outside_graphs() -> Callable[..., Tensor]:
    """The backward pass writes to a parameter, which a traced graph cannot hold: it breaks here. Not a decorator, which
    would import the compiler, two seconds, whenever the package is imported.
    """
    return torch.compiler.disable(_stepping_self_expression)


def _stepping_self_expression(layer: SelfExpressiveCUDA, M: Tensor, rows: Tensor | None, Z: Tensor | None) -> Tensor:
    C = layer.Coefficient
    if torch.is_autocast_enabled(C.device.type):  # as self_expression does by itself
        M, Z = M.to(C.dtype), None if Z is None else Z.to(C.dtype)
    out: Tensor = _SteppingSelfExpression.apply(C, M, rows, Z, layer)  # type: ignore[no-untyped-call]
    return out
