"""Cases of row_adam_."""

from __future__ import annotations

from collections.abc import Callable

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def _adam(
    B: int | None, m_columns: int = 300, *, weight_decay: float = 0.0, l1: float = 0.0
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        n = 7
        rows = None if B is None else m.distinct(B, n)
        state = (
            m.normal(n, m_columns),
            m.normal(n, m_columns),
            m.positive(n, m_columns),
            m.tensor([0, 3, 1, 0, 9, 2, 5]),
        )
        return *state, rows, m.normal(n if B is None else B, m_columns), 1e-2, 0.9, 0.999, 1e-8, weight_decay, l1

    return make


def _adam_duplicates(m: Make) -> Arguments:
    arguments = list(_adam(4)(m))
    arguments[4] = m.tensor([5, 1, 5, 5])
    return tuple(arguments)


def _adam_many(m: Make) -> Arguments:
    arguments = list(_adam(4, 3)(m))
    arguments[4], arguments[5] = m.integers(0, 7, 60), m.normal(60, 3)
    return tuple(arguments)


CASES = [
    Case("row_adam_", "rows", _adam(3)),
    Case("row_adam_", "penalties", _adam(3, weight_decay=0.1, l1=0.02)),
    Case("row_adam_", "all-rows", _adam(None, 70, weight_decay=0.1)),
    Case("row_adam_", "duplicates", _adam_duplicates),
    Case("row_adam_", "many-duplicates", _adam_many),
    Case("row_adam_", "no-rows", _adam(0)),
]
EXPECTED = {"row_adam_": reference.row_adam_}
MUTATED = {"row_adam_": (0, 1, 2, 3)}
