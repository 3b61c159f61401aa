"""Cases of the three regressions on a given support, and of their adjoint."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def _on_support(
    N: int, d: int, k: int, *parameters: float, B: int | None = None, kind: str = "normal"
) -> Callable[[Make], Arguments]:
    """Each row's columns differ and are unsorted; some are padding, and some of the samples' own (without ``B``)."""

    def make(m: Make) -> Arguments:
        X = m.normal(N, d) / max(d, 1) ** 0.5
        if kind == "correlated":
            X = X + 2 * m.normal(1, d) / max(d, 1) ** 0.5
        rows = N if B is None else B
        columns = [m.distinct(k, N) for _ in range(rows)]
        indices = torch.stack(columns) if columns else m.integers(0, 1, 0, k)
        if k > 2:
            indices[1::3, k // 2] = -1
            indices[2::5] = -1
            if B is None:
                indices[::2, 1] = torch.arange(0, N, 2, device=m.device)
        if kind == "repeated":
            indices[:, 2] = indices[:, 0]
        if kind == "zero rows":
            X[::2] = 0
        if kind == "not finite":
            X[3, 1], X[N - 1, 0] = float("nan"), float("inf")
        return X, indices, None if B is None else m.normal(B, d) / max(d, 1) ** 0.5, *parameters

    return make


def _on_support_adjoint(
    N: int, d: int, k: int, shift: float, floored: bool, share: float = 0.5
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        X, indices, _ = _on_support(N, d, k)(m)
        active = (indices >= 0) & (m.normal(*indices.shape).abs() > share)
        return m.normal(*indices.shape), X, indices, active, shift, floored

    return make


CASES = [
    *[
        case
        for op, parameters, few in (
            ("ridge_on_support", (0.3,), (0.3,)),
            ("elastic_net_on_support", (0.05, 0.2), (0.05, 0.1)),
            ("omp_on_support", (6, 1e-3), (2, 1e-3)),
        )
        for case in (
            Case(op, "some", _on_support(7, 5, 3, *few), (0,)),
            Case(op, "targets", _on_support(7, 5, 3, *few, B=4), (0, 2)),
            Case(op, "more-than-features", _on_support(6, 3, 5, *few), (0,)),
            Case(op, "vector-edges", _on_support(40, 131, 33, *parameters, B=5)),
            Case(op, "zero-rows", _on_support(12, 20, 5, *parameters, kind="zero rows")),
            Case(op, "not-finite", _on_support(12, 20, 5, *parameters, kind="not finite")),
            Case(op, "no-entries", _on_support(4, 3, 0, *parameters)),
        )
    ],
    Case("ridge_on_support", "repeated", _on_support(12, 20, 5, 0.1, kind="repeated")),
    Case("ridge_on_support", "tiles-exactly", _on_support(40, 64, 31, 0.3, B=3)),
    Case("ridge_on_support", "most-atoms", _on_support(140, 150, 120, 0.3, B=2)),
    Case("ridge_on_support", "one", _on_support(1, 1, 1, 0.3)),
    Case("ridge_on_support", "no-rows", _on_support(0, 3, 0, 0.3)),
    Case("ridge_on_support", "no-features", _on_support(6, 0, 3, 0.3)),
    Case("elastic_net_on_support", "repeated", _on_support(12, 20, 5, 0.02, 0.1, kind="repeated")),
    Case("elastic_net_on_support", "lasso", _on_support(6, 7, 3, 0.05, 0.0), (0,)),
    Case("elastic_net_on_support", "wide-lasso", _on_support(60, 160, 45, 0.02, 0.0, B=3)),
    Case("elastic_net_on_support", "correlated-lasso", _on_support(30, 60, 14, 0.02, 0.0, kind="correlated")),
    Case("elastic_net_on_support", "no-penalty", _on_support(12, 20, 7, 0.0, 0.0)),
    Case("elastic_net_on_support", "all-penalty", _on_support(12, 20, 7, 9.0, 0.1)),
    Case("elastic_net_on_support", "beyond-the-kernel", _on_support(140, 150, 130, 0.05, 0.2, B=2)),
    Case("omp_on_support", "no-atoms", _on_support(12, 20, 7, 0, 0.0)),
    Case("omp_on_support", "every-atom", _on_support(12, 20, 7, 20, 0.0)),
    Case("omp_on_support", "tolerant", _on_support(12, 20, 7, 7, 0.7)),
    Case("on_support_adjoint", "floored", _on_support_adjoint(9, 5, 4, 0.3, True)),
    Case("on_support_adjoint", "active", _on_support_adjoint(9, 12, 6, 0.2, False)),
]
EXPECTED = {
    "ridge_on_support": reference.ridge_on_support,
    "elastic_net_on_support": reference.elastic_net_on_support,
    "omp_on_support": reference.omp_on_support,
    "on_support_adjoint": reference.on_support_adjoint,
}
