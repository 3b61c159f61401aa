"""Cases of threshold_coefficients."""

from __future__ import annotations

from collections.abc import Callable

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def _threshold(n: int, m: int, rho: float, kind: str = "normal") -> Callable[[Make], Arguments]:
    def make(make_: Make) -> Arguments:
        C = make_.few_values(n, m) if kind == "ties" else make_.normal(n, m)
        if kind == "zero rows":
            C[::2] = 0
        if kind == "not finite":
            C[0, 0], C[1, 0] = float("nan"), float("inf")
        return C, rho

    return make


CASES = [
    Case("threshold_coefficients", "some", _threshold(4, 40, 0.3)),
    Case("threshold_coefficients", "small", _threshold(3, 5, 0.6), (0,)),
    Case("threshold_coefficients", "wide", _threshold(3, 700, 0.9)),
    Case("threshold_coefficients", "ties", _threshold(6, 90, 0.5, "ties")),
    Case("threshold_coefficients", "ties-at-zero-share", _threshold(6, 90, 0.0, "ties")),
    Case("threshold_coefficients", "zero-rows", _threshold(5, 33, 0.4, "zero rows")),
    Case("threshold_coefficients", "not-finite", _threshold(3, 33, 0.4, "not finite")),
    Case("threshold_coefficients", "everything", _threshold(3, 5, 1.0), (0,)),
    Case("threshold_coefficients", "no-rows", _threshold(0, 5, 0.5)),
    Case("threshold_coefficients", "no-columns", _threshold(3, 0, 0.5)),
]
EXPECTED = {"threshold_coefficients": reference.threshold_coefficients}
