"""Cases of sparse_self_expression_step_, on the inputs of sparse_self_expression."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make
from ops.cases.sparse_self_expression import sparse, sparse_duplicates, sparse_landmarks, sparse_shard


def _sparse_step(
    forward: Callable[[Make], Arguments],
    *,
    moments: torch.dtype | None = None,
    weight_decay: float = 0.1,
    decoupled: bool = False,
    l1: float = 0.02,
    proximal: bool = False,
    grad_scale: float | None = None,
    found_inf: float | None = None,
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        values, indices, M, rows, Z, zero_diagonal, row_offset, _ = forward(m)
        n, k = values.shape
        state: tuple[Tensor | None, ...] = (None, None, None)
        if not proximal:
            stored = moments if m.dtype == torch.float32 else None  # bf16 goes with float32 alone
            state = (m.normal(n, k, dtype=stored), m.normal(n, k).abs().to(stored or m.dtype), m.integers(0, 9, n))
        G = m.normal(n if rows is None else rows.shape[0], M.shape[1])
        scalars = [None if x is None else torch.tensor(x, device=m.device) for x in (grad_scale, found_inf)]
        return (
            values, indices, *state, G, M, rows, Z, 1e-2, 0.9, 0.999, 1e-8, weight_decay, decoupled, l1, proximal,
            zero_diagonal, row_offset, *scalars,
        )  # fmt: skip

    return make


CASES = [
    Case("sparse_self_expression_step_", "splice", _sparse_step(sparse(5, 11, 4, 3))),
    Case("sparse_self_expression_step_", "bank-alone", _sparse_step(sparse(4, 11, 3, 17, splice=False), l1=0.0)),
    Case("sparse_self_expression_step_", "duplicates", _sparse_step(sparse_duplicates)),
    Case("sparse_self_expression_step_", "shard", _sparse_step(sparse_shard, moments=torch.bfloat16)),
    Case("sparse_self_expression_step_", "landmarks", _sparse_step(sparse_landmarks)),
    Case("sparse_self_expression_step_", "all-rows", _sparse_step(sparse(None, 40, 9, 64), decoupled=True)),
    Case("sparse_self_expression_step_", "vector-edges", _sparse_step(sparse(9, 40, 20, 70), moments=torch.bfloat16)),
    Case("sparse_self_expression_step_", "long-rows", _sparse_step(sparse(3, 40, 600, 5))),
    Case(
        "sparse_self_expression_step_",
        "bf16-bank",
        _sparse_step(sparse(9, 40, 20, 64, bank=torch.bfloat16), moments=torch.bfloat16),
    ),
    Case("sparse_self_expression_step_", "f16-bank", _sparse_step(sparse(9, 40, 20, 8, bank=torch.float16))),
    Case("sparse_self_expression_step_", "proximal", _sparse_step(sparse_duplicates, l1=30.0, proximal=True)),
    Case("sparse_self_expression_step_", "scaled", _sparse_step(sparse_duplicates, grad_scale=128.0, found_inf=0.0)),
    Case("sparse_self_expression_step_", "skipped", _sparse_step(sparse_duplicates, grad_scale=128.0, found_inf=1.0)),
    Case("sparse_self_expression_step_", "no-rows", _sparse_step(sparse(0, 6, 4, 3))),
    Case("sparse_self_expression_step_", "no-entries", _sparse_step(sparse(4, 6, 0, 3))),
    Case("sparse_self_expression_step_", "no-features", _sparse_step(sparse(2, 6, 4, 0))),
]
EXPECTED = {"sparse_self_expression_step_": reference.sparse_self_expression_step_}
MUTATED = {"sparse_self_expression_step_": (0, 2, 3, 4)}
