"""Cases of sparse_self_expression and of the two ops that are its gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def sparse(
    B: int | None,
    N: int,
    k: int,
    d: int,
    *,
    splice: bool = True,
    zero_diagonal: bool = True,
    bank: torch.dtype | None = None,
    hub: bool = False,
) -> Callable[[Make], Arguments]:
    """Columns are padded, repeated and on the diagonal; with ``hub`` every row names column N // 2."""

    def make(m: Make) -> Arguments:
        indices = m.integers(-1, N, N, k)
        if k > 1:
            indices[:, 1] = N // 2 if hub else torch.arange(N, device=m.device)
        if N > 0 and k > 2:
            indices[N // 2] = -1
        rows = None if B is None else m.distinct(B, N)
        Z = m.normal(B, d) if splice and B is not None else None
        M = m.normal(N, d, dtype=bank if m.dtype == torch.float32 else None)
        return m.normal(N, k), indices, M, rows, Z, zero_diagonal, 0, False

    return make


def sparse_duplicates(m: Make) -> Arguments:
    arguments = list(sparse(5, 9, 4, 6)(m))
    arguments[3] = m.tensor([7, 2, 7, 0, 7])
    return tuple(arguments)


def sparse_shard(m: Make) -> Arguments:
    indices = m.integers(-1, 12, 5, 4)
    return m.normal(5, 4), indices, m.normal(12, 3), m.tensor([6, 4, 8]), m.normal(3, 3), True, 4, False


def sparse_landmarks(m: Make) -> Arguments:
    return m.normal(9, 3), m.integers(0, 4, 9, 3), m.normal(4, 5), m.tensor([8, 0, 8]), None, False, 0, False


def _sparse_grad(forward: Callable[[Make], Arguments]) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        values, indices, M, rows, Z, zero_diagonal, row_offset, _ = forward(m)
        B = values.shape[0] if rows is None else rows.shape[0]
        return m.normal(B, M.shape[1]), indices, M, rows, Z, zero_diagonal, row_offset

    return make


def _sparse_transposed(
    forward: Callable[[Make], Arguments], *, bank: bool = True, live: bool = True
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        values, indices, M, rows, Z, zero_diagonal, row_offset, _ = forward(m)
        B = values.shape[0] if rows is None else rows.shape[0]
        G = m.normal(B, M.shape[1])
        return G, values, indices, rows, M.shape[0], Z is not None, bank, live, zero_diagonal, row_offset

    return make


CASES = [
    Case("sparse_self_expression", "splice", sparse(5, 11, 4, 3), (0, 2, 4)),
    Case("sparse_self_expression", "splice-free-diagonal", sparse(5, 11, 4, 3, zero_diagonal=False), (0, 2, 4)),
    Case("sparse_self_expression", "bank-alone", sparse(4, 11, 3, 17, splice=False), (0, 2)),
    Case("sparse_self_expression", "duplicates", sparse_duplicates, (0, 2, 4)),
    Case("sparse_self_expression", "shard", sparse_shard, (0, 2, 4)),
    Case("sparse_self_expression", "landmarks", sparse_landmarks, (0, 2)),
    Case("sparse_self_expression", "all-rows", sparse(None, 8, 3, 5), (0, 2)),
    Case("sparse_self_expression", "hub", sparse(600, 700, 3, 6, hub=True)),
    Case("sparse_self_expression", "one-column", sparse(7, 30, 5, 1)),
    Case("sparse_self_expression", "vector-edges", sparse(9, 40, 20, 70)),
    Case("sparse_self_expression", "wide", sparse(5, 40, 33, 300)),
    Case("sparse_self_expression", "aligned", sparse(33, 70, 7, 64)),
    Case("sparse_self_expression", "bf16-bank", sparse(9, 40, 20, 37, bank=torch.bfloat16)),
    Case("sparse_self_expression", "f16-bank", sparse(9, 40, 20, 64, bank=torch.float16)),
    Case("sparse_self_expression", "narrow-f16-bank", sparse(9, 40, 4, 3, bank=torch.float16)),
    Case("sparse_self_expression", "no-rows", sparse(0, 6, 4, 3)),
    Case("sparse_self_expression", "no-entries", sparse(4, 6, 0, 3)),
    Case("sparse_self_expression", "no-columns", sparse(2, 6, 4, 0)),
    *[
        case
        for label, forward in {
            "splice": sparse(5, 11, 4, 3),
            "duplicates": sparse_duplicates,
            "shard": sparse_shard,
            "bank-alone": sparse(4, 11, 3, 17, splice=False),
            "all-rows": sparse(None, 40, 9, 64),
            "hub": sparse(600, 700, 3, 6, hub=True),
            "wide-hub": sparse(None, 700, 2, 70, hub=True),
            "wide": sparse(5, 40, 33, 300),
            "bf16-bank": sparse(9, 40, 20, 37, bank=torch.bfloat16),
            "no-rows": sparse(0, 6, 4, 3),
            "no-entries": sparse(4, 6, 0, 3),
        }.items()
        for case in (
            Case("sparse_self_expression_grad", label, _sparse_grad(forward)),
            Case("sparse_self_expression_transposed", label, _sparse_transposed(forward)),
        )
    ],
    Case("sparse_self_expression_transposed", "live-alone", _sparse_transposed(sparse_duplicates, bank=False)),
    Case("sparse_self_expression_transposed", "no-live", _sparse_transposed(sparse_duplicates, live=False)),
]
EXPECTED = {
    "sparse_self_expression": lambda *arguments: reference.sparse_self_expression(*arguments[:7]),
    "sparse_self_expression_grad": reference.sparse_self_expression_grad,
    "sparse_self_expression_transposed": reference.sparse_self_expression_transposed,
}
