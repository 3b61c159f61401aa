"""The optimizers of the coefficient matrix: RowAdam, and FusedAdam, the settings of one inside the backward pass.

In a mini-batch only the batch's rows of C have a gradient. Both step exactly those, each by its own count, so that a
row is updated as if it alone were optimized by Adam, however the batches fall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsc_ext._torch import rows_and_values
from dsc_ext.ops.row_adam import row_adam_


class RowAdam(torch.optim.Optimizer):
    """Step 2-D parameters by Adam (Kingma & Ba, ICLR 2015), with moments and step counts of each row's own.

    A sparse COO gradient (``self_expression(..., sparse_grad=True)``) steps the rows it holds and nothing else; a dense
    gradient steps every row, which is then exactly ``torch.optim.Adam`` with its coupled ``weight_decay``.

    Args:
        params: 2-D float32 or float64 parameters, or parameter groups.
        lr: step size.
        betas: decay of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: coupled L2, ``g += weight_decay · c``. The loss term ``λ‖C‖_F²`` is ``weight_decay = 2λ``.
        l1: ``g += l1 · sign(c)``. The loss term ``λ‖C‖₁`` is ``l1 = λ``.

    Raises:
        ValueError: a hyper-parameter out of range, or a parameter that is not 2-D, by name.

    Memory: two moments of C's size and 8 bytes a row. Deterministic.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        l1: float = 0.0,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay), ("l1", l1)):
            if not value >= 0:
                raise ValueError(f"RowAdam: {name} must be 0 or more, got {value}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"RowAdam: betas must be in [0, 1), got {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "l1": l1})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if parameter.dim() != 2:
                raise ValueError(f"RowAdam: parameters must be 2-D, got shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step every parameter that has a gradient; return the closure's loss, if one was given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_parameter(parameter, parameter.grad, group)
        return loss

    def _step_parameter(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            # "row_step" and not "step": Optimizer.load_state_dict would cast a tensor called "step" like the
            # reference's.
            state["row_step"] = torch.zeros(parameter.shape[0], dtype=torch.int64, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        rows, values = rows_and_values(grad) if grad.is_sparse else (None, grad)
        row_adam_(
            parameter,
            state["exp_avg"],
            state["exp_avg_sq"],
            state["row_step"],
            rows,
            values,
            lr=float(group["lr"]),
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            l1=group["l1"],
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch.optim does, with the row counts kept int64.

        torch casts the state of floating parameters to their dtype.
        """
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            if "row_step" in state:
                state["row_step"] = state["row_step"].to(device=parameter.device, dtype=torch.int64)


@dataclass(frozen=True)
class FusedAdam:
    """Set how the backward pass of :class:`dsc_ext.nn.SelfExpression` steps its coefficients.

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
