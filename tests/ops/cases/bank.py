"""Cases of bank_scatter_ and bank_push_."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def _scatter(
    to: torch.dtype | None, source: torch.dtype | None, *, d: int = 5, normalize: bool = False, momentum: float = 0.0
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        Z = m.normal(4, d, dtype=source)
        Z[0] = 0
        return m.normal(6, d, dtype=to), m.tensor([1, 4, 1, 0]), Z, normalize, momentum

    return make


def _scatter_many(m: Make) -> Arguments:
    """More rows than each can look for its duplicates among the others."""
    return m.normal(500, 1), m.integers(0, 500, 2100), m.normal(2100, 1), False, 0.0


def _push_many(m: Make) -> Arguments:
    """More numbers than one block takes."""
    return m.normal(70, 300), m.tensor([66]), m.normal(60, 300), True


def _push(
    B: int, *, to: torch.dtype | None = None, normalize: bool = False, start: int = 4
) -> Callable[[Make], Arguments]:
    return lambda m: (m.normal(6, 5, dtype=to), m.tensor([start]), m.normal(B, 5), normalize)


CASES = [
    Case("bank_scatter_", "replace", _scatter(None, None)),
    Case("bank_scatter_", "mix-normalize", _scatter(None, None, normalize=True, momentum=0.3)),
    Case("bank_scatter_", "wide", _scatter(None, None, d=300, normalize=True)),
    Case("bank_scatter_", "to-bf16", _scatter(torch.bfloat16, None, normalize=True)),
    Case("bank_scatter_", "to-f16", _scatter(torch.float16, None, momentum=0.3)),
    Case("bank_scatter_", "from-bf16", _scatter(None, torch.bfloat16)),
    Case("bank_scatter_", "from-f16-to-f64", _scatter(torch.float64, torch.float16, normalize=True)),
    Case("bank_scatter_", "many-duplicates", _scatter_many),
    Case("bank_push_", "wrap", _push(4)),
    Case("bank_push_", "many", _push_many),
    Case("bank_push_", "larger-than-bank", _push(20)),
    Case("bank_push_", "exactly-the-bank", _push(6, start=0)),
    Case("bank_push_", "normalize-bf16", _push(3, to=torch.bfloat16, normalize=True)),
    Case("bank_push_", "nothing", _push(0)),
]
EXPECTED = {"bank_scatter_": reference.bank_scatter_, "bank_push_": reference.bank_push_}
MUTATED = {"bank_scatter_": (0,), "bank_push_": (0, 1)}
