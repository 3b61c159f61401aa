"""RowAdam: the optimizer of the coefficient matrix.

In a mini-batch only the batch's rows of C have a gradient. RowAdam steps exactly those, each by its own count, so that
a row is updated as if it alone were optimized by Adam, however the batches fall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from dsc_ext.ops.row_adam import row_adam_


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba, ICLR 2015) with moments and step counts per row of 2-D parameters.

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
        """Steps every parameter that has a gradient; returns the closure's loss, if one was given."""
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
        rows, values = (grad._indices()[0], grad._values()) if grad.is_sparse else (None, grad)
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
        """As in torch.optim, with the row counts kept int64 (torch casts floating parameters' state to their dtype)."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            if "row_step" in state:
                state["row_step"] = state["row_step"].to(device=parameter.device, dtype=torch.int64)
