"""Cases of topk_coefficients, from entries and from inner products."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def _topk(
    n: int, m: int, k: int, *, rows: int | None = None, kind: str = "normal", signed: bool = False, own: bool = True
) -> Callable[[Make], Arguments]:
    def make(make_: Make) -> Arguments:
        C = make_.few_values(n, m) if kind == "ties" else make_.normal(n, m)
        if kind == "equal":
            C.fill_(0.5)
        if kind == "not finite":
            C[0, ::2], C[1, 3], C[1, 1], C[2] = float("nan"), float("inf"), float("-inf"), float("nan")
        picked = None if rows is None else make_.distinct(rows, n)
        return C, None, k, picked, signed, own, 0, False

    return make


def _topk_duplicates(m: Make) -> Arguments:
    return m.normal(6, 6), None, 2, m.tensor([4, 1, 4]), False, True, 0, False


def _topk_shard(m: Make) -> Arguments:
    return m.normal(5, 12), None, 3, m.tensor([6, 4, 8]), False, True, 4, False


def _topk_products(
    B: int,
    N: int,
    d: int,
    k: int,
    *,
    rows: bool = True,
    storage: torch.dtype | None = None,
    kind: str = "normal",
    signed: bool = False,
    own: bool = True,
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        if kind == "normal":
            Q, K = m.normal(B, d, dtype=storage), m.normal(N, d, dtype=storage)
        else:
            Q, K = m.few_values(B, d), m.few_values(N, d)
        if kind == "ascending":  # every sample beats all before it
            Q, K = Q.fill_(1), K.copy_(torch.arange(1, N + 1)[:, None].expand(N, d))
        if kind == "not finite":
            K[1], K[N - 1] = float("nan"), float("nan")
        return Q, K, k, m.distinct(B, N) if rows else None, signed, own, 0, False

    return make


CASES = [
    Case("topk_coefficients", "some", _topk(9, 9, 3), (0,)),
    Case("topk_coefficients", "rows", _topk(9, 9, 3, rows=4), (0,)),
    Case("topk_coefficients", "signed", _topk(9, 9, 3, signed=True), (0,)),
    Case("topk_coefficients", "duplicates", _topk_duplicates, (0,)),
    Case("topk_coefficients", "shard", _topk_shard, (0,)),
    Case("topk_coefficients", "landmarks", _topk(9, 4, 2, own=False), (0,)),
    Case("topk_coefficients", "more-than-there-is", _topk(4, 4, 6), (0,)),
    Case("topk_coefficients", "wide", _topk(3, 5000, 20, own=False)),
    Case("topk_coefficients", "ties", _topk(70, 200, 33, kind="ties", rows=20)),
    Case("topk_coefficients", "ties-signed", _topk(20, 200, 100, kind="ties", signed=True)),
    Case("topk_coefficients", "equal", _topk(2, 4700, 256, kind="equal")),
    Case("topk_coefficients", "not-finite", _topk(7, 90, 30, kind="not finite")),
    Case("topk_coefficients", "not-finite-signed", _topk(7, 90, 70, kind="not finite", signed=True)),
    Case("topk_coefficients", "beyond-the-kernel", _topk(5, 400, 300)),
    Case("topk_coefficients", "no-rows", _topk(0, 5, 2)),
    Case("topk_coefficients", "no-columns", _topk(3, 0, 2, own=False)),
    Case("topk_coefficients", "nothing", _topk(3, 4, 0)),
    Case("topk_coefficients", "products", _topk_products(5, 9, 4, 3), (0, 1)),
    Case("topk_coefficients", "products-signed", _topk_products(5, 9, 4, 3, signed=True), (0, 1)),
    Case("topk_coefficients", "products-of-all", _topk_products(7, 7, 3, 9, rows=False), (0, 1)),
    Case("topk_coefficients", "products-landmarks", _topk_products(9, 5, 4, 2, rows=False, own=False), (0, 1)),
    Case("topk_coefficients", "products-tile-edges", _topk_products(130, 131, 33, 7)),
    Case("topk_coefficients", "products-deep", _topk_products(3, 70, 170, 5)),
    Case("topk_coefficients", "products-split", _topk_products(3, 2100, 5, 12)),
    Case("topk_coefficients", "products-ties", _topk_products(40, 700, 6, 50, kind="ties")),
    Case("topk_coefficients", "products-ties-signed", _topk_products(20, 700, 6, 50, kind="ties", signed=True)),
    Case("topk_coefficients", "products-ascending", _topk_products(2, 1000, 3, 256, kind="ascending")),
    Case("topk_coefficients", "products-not-finite", _topk_products(5, 600, 3, 6, kind="not finite")),
    Case("topk_coefficients", "products-bf16", _topk_products(9, 90, 16, 4, storage=torch.bfloat16)),
    Case("topk_coefficients", "products-f16", _topk_products(9, 90, 16, 4, storage=torch.float16, signed=True)),
    Case("topk_coefficients", "products-no-rows", _topk_products(0, 6, 3, 2)),
    Case("topk_coefficients", "products-no-samples", _topk_products(3, 0, 4, 2, rows=False, own=False)),
    Case("topk_coefficients", "products-no-features", _topk_products(3, 6, 0, 2)),
]
EXPECTED = {"topk_coefficients": lambda *arguments: reference.topk_coefficients(*arguments[:7])}
