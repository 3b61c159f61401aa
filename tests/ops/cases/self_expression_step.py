"""Cases of self_expression_step_."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def _step(
    B: int | None,
    N: int,
    d: int,
    *,
    n: int | None = None,
    rows: list[int] | None = None,
    row_offset: int = 0,
    splice: bool = True,
    moments: torch.dtype | None = None,
    weight_decay: float = 0.1,
    decoupled: bool = False,
    l1: float = 0.02,
    proximal: bool = False,
    zero_diagonal: bool = True,
    grad_scale: float | None = None,
    found_inf: float | None = None,
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        held = n or N
        batch = None if B is None else m.tensor(rows) if rows else m.distinct(B, held) + row_offset
        count = held if batch is None else batch.shape[0]
        state: tuple[Tensor | None, ...] = (None, None, None)
        if not proximal:
            stored = moments if m.dtype == torch.float32 else None  # bf16 goes with float32 alone
            state = (
                m.normal(held, N, dtype=stored),
                m.normal(held, N).abs().to(stored or m.dtype),
                m.integers(0, 9, held),
            )
        C, G, M = m.normal(held, N), m.normal(count, d), m.normal(N, d)
        Z = m.normal(count, d) if splice and batch is not None else None
        scalars = [None if x is None else torch.tensor(x, device=m.device) for x in (grad_scale, found_inf)]
        return (
            C, *state, G, M, batch, Z, 1e-2, 0.9, 0.999, 1e-8, weight_decay, decoupled, l1, proximal, zero_diagonal,
            row_offset, *scalars,
        )  # fmt: skip

    return make


CASES = [
    Case("self_expression_step_", "splice", _step(5, 11, 3)),
    Case("self_expression_step_", "free-diagonal", _step(5, 11, 3, zero_diagonal=False)),
    Case("self_expression_step_", "bank-alone", _step(4, 11, 3, splice=False, weight_decay=0.0, l1=0.0)),
    Case("self_expression_step_", "decoupled", _step(5, 11, 3, decoupled=True)),
    Case("self_expression_step_", "bf16-moments", _step(5, 40, 3, moments=torch.bfloat16)),
    Case("self_expression_step_", "proximal", _step(5, 40, 3, l1=30.0, proximal=True)),
    Case("self_expression_step_", "duplicates", _step(5, 9, 4, rows=[7, 2, 7, 0, 7])),
    Case("self_expression_step_", "shard", _step(3, 12, 3, n=5, row_offset=4)),
    Case("self_expression_step_", "shard-bf16", _step(3, 12, 3, n=5, row_offset=4, moments=torch.bfloat16)),
    Case("self_expression_step_", "landmarks", _step(4, 4, 3, n=9, splice=False, zero_diagonal=False)),
    Case("self_expression_step_", "full-batch", _step(None, 8, 5)),
    Case("self_expression_step_", "full-batch-shard", _step(None, 8, 5, n=3, row_offset=2)),
    Case("self_expression_step_", "scaled", _step(5, 11, 3, grad_scale=128.0, found_inf=0.0)),
    Case("self_expression_step_", "skipped", _step(5, 11, 3, grad_scale=128.0, found_inf=1.0)),
    Case("self_expression_step_", "tile-edges", _step(66, 131, 65)),
    Case("self_expression_step_", "several-runs", _step(13, 1100, 20)),
    Case("self_expression_step_", "many-features", _step(13, 70, 700, grad_scale=2.0)),
    Case("self_expression_step_", "no-rows", _step(0, 6, 3)),
    Case("self_expression_step_", "no-features", _step(2, 6, 0)),
]
EXPECTED = {"self_expression_step_": reference.self_expression_step_}
MUTATED = {"self_expression_step_": (0, 1, 2, 3)}
TF32 = ("self_expression_step_",)
