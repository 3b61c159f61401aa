"""Cases of symmetrize_affinity and symmetrize_dense; what they should give is W as a dense matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def _symmetrize(n: int, k: int, reduce: str, threshold: float = 0.0) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        # Unsorted, repeated and padded columns, and a hub that every row names.
        column = m.integers(-1, n, n, k) if n else m.integers(0, 1, 0, k)
        if k > 1:
            column[:, 0] = n // 2
        crow = torch.arange(n + 1, device=m.device) * k
        return m.normal(n * k), crow, column.reshape(-1), reduce, threshold

    return make


def _symmetrize_sorted(n: int, share: float, reduce: str) -> Callable[[Make], Arguments]:
    """Strictly increasing columns, so that nothing has to be copied; every third row empty."""

    def make(m: Make) -> Arguments:
        present = m.normal(n, n).abs() < share
        present[::3] = False
        crow = torch.nn.functional.pad(present.sum(1).cumsum(0), (1, 0))
        return m.normal(int(crow[-1])), crow, present.nonzero()[:, 1], reduce, 0.0

    return make


def _symmetrize_dense(n: int, reduce: str, threshold: float = 0.0, share: float = 9.0) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        C = m.normal(n, n)
        return C.masked_fill_(m.normal(n, n).abs() > share, 0.0), reduce, threshold

    return make


CASES = [
    Case("symmetrize_affinity", "mean", _symmetrize(9, 4, "mean"), (0,)),
    Case("symmetrize_affinity", "max", _symmetrize(9, 4, "max"), (0,)),
    Case("symmetrize_affinity", "t-conorm", _symmetrize(9, 4, "t-conorm"), (0,)),
    Case("symmetrize_affinity", "threshold", _symmetrize(9, 4, "t-conorm", 0.5), (0,)),
    Case("symmetrize_affinity", "hub", _symmetrize(90, 7, "mean")),
    Case("symmetrize_affinity", "long-hub", _symmetrize(600, 2, "mean")),
    Case("symmetrize_affinity", "dense-rows", _symmetrize(40, 60, "max")),
    Case("symmetrize_affinity", "sorted", _symmetrize_sorted(40, 0.4, "mean"), (0,)),
    Case("symmetrize_affinity", "blocks", _symmetrize_sorted(300, 0.5, "t-conorm")),
    Case("symmetrize_affinity", "one", _symmetrize(1, 1, "mean")),
    Case("symmetrize_affinity", "no-entries", _symmetrize(5, 0, "mean")),
    Case("symmetrize_affinity", "no-rows", _symmetrize(0, 3, "mean")),
    Case("symmetrize_dense", "all", _symmetrize_dense(5, "t-conorm"), (0,)),
    Case("symmetrize_dense", "some", _symmetrize_dense(7, "max", 0.3, share=0.7), (0,)),
    Case("symmetrize_dense", "full-tiles", _symmetrize_dense(131, "mean")),
    Case("symmetrize_dense", "thin-tiles", _symmetrize_dense(200, "max", 0.1, share=0.02)),
    Case("symmetrize_dense", "bits-without-mirrors", _symmetrize_dense(300, "t-conorm", 0.5, share=0.001)),
    Case("symmetrize_dense", "no-rows", _symmetrize_dense(0, "mean")),
]


def _expected(values: Tensor, crow: Tensor, column: Tensor, reduce: str, threshold: float) -> Tensor:
    n = crow.shape[0] - 1
    row = torch.repeat_interleave(torch.arange(n, device=crow.device), crow.diff())
    return reference.symmetrize_affinity(values, row, column, n, reduce, threshold)


def _expected_dense(C: Tensor, reduce: str, threshold: float) -> Tensor:
    n = C.shape[0]
    every = torch.cartesian_prod(*[torch.arange(n, device=C.device)] * 2)
    return reference.symmetrize_affinity(C.reshape(-1), every[:, 0], every[:, 1], n, reduce, threshold)


EXPECTED = {"symmetrize_affinity": _expected, "symmetrize_dense": _expected_dense}
