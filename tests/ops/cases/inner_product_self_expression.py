"""Cases of inner_product_self_expression."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def _inner_product(
    B: int,
    N: int,
    dq: int,
    dv: int,
    *,
    rows: str = "distinct",
    threshold: float = 0.3,
    storage: torch.dtype | None = None,
) -> Callable[[Make], Arguments]:
    """``rows``: "distinct" samples, "all" of them in order, "free" for queries that are no samples."""

    def make(m: Make) -> Arguments:
        Q, K, V = (m.normal(n, d, dtype=storage) for n, d in ((B, dq), (N, dq), (N, dv)))
        compute = m.dtype if storage is None else torch.float32
        t = torch.full((), threshold, dtype=compute, device=m.device)
        return Q, K, V, t, 0.7 / max(dq, 1), m.distinct(B, N) if rows == "distinct" else None, rows != "free"

    return make


def _inner_product_duplicates(m: Make) -> Arguments:
    """And a threshold of shape (1,), a negative factor."""
    threshold = torch.full((1,), 0.2, dtype=m.dtype, device=m.device)
    return m.normal(5, 3), m.normal(9, 3), m.normal(9, 4), threshold, -0.5, m.tensor([7, 2, 7, 0, 7]), True


def _inner_product_ties(m: Make) -> Arguments:
    """Scores of exactly the threshold, and of exactly 0."""
    threshold = torch.full((), 2.0, dtype=m.dtype, device=m.device)
    return m.few_values(20, 2), m.few_values(37, 2), m.few_values(37, 3), threshold, 1.0, m.distinct(20, 37), True


def _inner_product_not_finite(m: Make) -> Arguments:
    arguments = _inner_product(70, 90, 5, 6)(m)
    arguments[0][3, 1] = float("nan")
    arguments[2][7, 2] = float("nan")
    return arguments


CASES = [
    Case("inner_product_self_expression", "batch", _inner_product(5, 11, 3, 4), (0, 1, 2, 3)),
    Case("inner_product_self_expression", "whole-set", _inner_product(6, 6, 4, 3, rows="all"), (0, 1, 2, 3)),
    Case("inner_product_self_expression", "no-samples-queries", _inner_product(4, 7, 2, 3, rows="free"), (0, 1, 2, 3)),
    Case("inner_product_self_expression", "duplicates", _inner_product_duplicates, (0, 1, 2, 3)),
    Case("inner_product_self_expression", "zero-threshold", _inner_product(4, 7, 2, 3, threshold=0.0), (0, 1, 2)),
    Case(
        "inner_product_self_expression", "negative-threshold", _inner_product(4, 7, 2, 3, threshold=-0.2), (0, 1, 2, 3)
    ),
    Case("inner_product_self_expression", "ties", _inner_product_ties),
    Case("inner_product_self_expression", "not-finite", _inner_product_not_finite),
    Case("inner_product_self_expression", "tile-edges", _inner_product(66, 131, 65, 33)),
    Case("inner_product_self_expression", "tiles-exactly", _inner_product(64, 128, 32, 64)),
    Case("inner_product_self_expression", "wide", _inner_product(9, 70, 140, 270)),
    Case("inner_product_self_expression", "split-sum", _inner_product(3, 700, 7, 5)),
    Case("inner_product_self_expression", "bf16", _inner_product(9, 70, 17, 24, storage=torch.bfloat16)),
    Case("inner_product_self_expression", "f16", _inner_product(9, 70, 17, 24, storage=torch.float16)),
    Case("inner_product_self_expression", "one", _inner_product(1, 1, 1, 1)),
    Case("inner_product_self_expression", "no-queries", _inner_product(0, 6, 3, 2)),
    Case("inner_product_self_expression", "no-samples", _inner_product(3, 0, 3, 2, rows="free")),
    Case("inner_product_self_expression", "no-features", _inner_product(3, 6, 0, 2)),
    Case("inner_product_self_expression", "no-columns", _inner_product(3, 6, 2, 0)),
]


def _expected(
    Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor, scale: float, rows: Tensor | None, zero_diagonal: bool
) -> tuple[Tensor, ...]:
    if zero_diagonal and rows is None:
        rows = torch.arange(Q.shape[0], device=Q.device)
    return reference.inner_product_self_expression(Q, K, V, threshold, scale, rows if zero_diagonal else None)


EXPECTED = {"inner_product_self_expression": _expected}
