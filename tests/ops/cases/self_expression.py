"""Cases of self_expression."""

from __future__ import annotations

from collections.abc import Callable

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def _self_expression(
    B: int, N: int, d: int, *, splice: bool = True, zero_diagonal: bool = True
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        rows = m.distinct(B, N)
        return m.normal(N, N), m.normal(N, d), rows, m.normal(B, d) if splice else None, zero_diagonal, 0, False

    return make


def _duplicates(m: Make) -> Arguments:
    return m.normal(9, 9), m.normal(9, 4), m.tensor([7, 2, 7, 0, 7]), m.normal(5, 4), True, 0, False


def _shard(m: Make) -> Arguments:
    return m.normal(5, 12), m.normal(12, 3), m.tensor([6, 4, 8]), m.normal(3, 3), True, 4, False


def _landmarks(m: Make) -> Arguments:
    return m.normal(9, 4), m.normal(4, 3), m.tensor([8, 0, 8]), None, False, 0, False


def _full(m: Make) -> Arguments:
    return m.normal(8, 8), m.normal(8, 5), None, None, True, 0, False


def _full_shard(m: Make) -> Arguments:
    return m.normal(3, 8), m.normal(8, 5), None, None, True, 2, False


CASES = [
    Case("self_expression", "splice", _self_expression(5, 11, 3), (0, 1, 3)),
    Case("self_expression", "splice-free-diagonal", _self_expression(5, 11, 3, zero_diagonal=False), (0, 1, 3)),
    Case("self_expression", "bank-alone", _self_expression(4, 11, 3, splice=False), (0, 1)),
    Case("self_expression", "duplicates", _duplicates, (0, 1, 3)),
    Case("self_expression", "shard", _shard, (0, 1, 3)),
    Case("self_expression", "landmarks", _landmarks, (0, 1)),
    Case("self_expression", "full-batch", _full, (0, 1)),
    Case("self_expression", "full-batch-shard", _full_shard, (0, 1)),
    Case("self_expression", "tile-edges", _self_expression(66, 131, 65)),
    Case("self_expression", "middle-width", _self_expression(7, 70, 40)),
    Case("self_expression", "whole-batch", _self_expression(130, 130, 32)),
    Case("self_expression", "split-sum", _self_expression(3, 600, 7)),
    Case("self_expression", "no-rows", _self_expression(0, 6, 3)),
    Case("self_expression", "no-columns", _self_expression(2, 6, 0)),
]
EXPECTED = {"self_expression": lambda *arguments: reference.self_expression(*arguments[:6])}
TF32 = ("self_expression",)
