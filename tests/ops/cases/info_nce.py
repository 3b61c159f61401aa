"""Cases of info_nce and info_nce_expected."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dsc_ext import reference
from ops.cases.case import Arguments, Case, Make


def _unit(X: Tensor) -> Tensor:
    return X / X.norm(dim=1, keepdim=True)


def _info_nce(
    B: int,
    N: int,
    d: int,
    *,
    q: int | None = None,
    temperature: float = 0.2,
    view: torch.dtype | None = None,
    bank: torch.dtype | None = None,
    kind: str = "",
) -> Callable[[Make], Arguments]:
    """Unit rows; a mask of ``q`` columns, some of them padding, some twice. 16-bit inputs where all is not float64."""

    def make(m: Make) -> Arguments:
        def stored(X: Tensor, to: torch.dtype | None) -> Tensor:
            return X if to is None or m.dtype == torch.float64 else X.to(to)

        a, p, M = m.normal(B, d), m.normal(B, d), m.normal(N, d)
        if kind != "cold":
            a, p, M = _unit(a), _unit(p), _unit(M)
        rows = m.integers(0, N, B)
        mask = None if q is None else m.integers(-1, N, B, q)
        if kind == "nothing left":
            mask[1] = torch.arange(N, device=m.device)
        if kind == "not finite":
            a[1, 0], p[2, 0], M[7, 1] = float("nan"), float("nan"), float("nan")
            rows[3] = 7
        return stored(a, view), stored(p, view), stored(M, bank), rows, mask, temperature

    return make


CASES = [
    Case("info_nce", "some", _info_nce(5, 11, 3, q=4), (0, 1)),
    Case("info_nce", "unmasked", _info_nce(4, 9, 3), (0, 1)),
    Case("info_nce", "nothing-left", _info_nce(3, 5, 3, q=5, kind="nothing left"), (0, 1)),
    Case("info_nce", "only-itself", _info_nce(3, 1, 3), (0, 1)),
    Case("info_nce", "cold", _info_nce(6, 300, 20, temperature=0.01, kind="cold")),
    Case("info_nce", "not-finite", _info_nce(6, 300, 5, q=3, kind="not finite")),
    Case("info_nce", "tile-edges", _info_nce(70, 301, 67, q=9)),
    Case("info_nce", "wide", _info_nce(5, 70, 150)),
    Case("info_nce", "split-sum", _info_nce(3, 2500, 7, q=900)),
    Case("info_nce", "bf16", _info_nce(5, 150, 33, view=torch.bfloat16, bank=torch.bfloat16)),
    Case("info_nce", "f16", _info_nce(5, 150, 33, view=torch.float16, bank=torch.float16)),
    Case("info_nce", "no-rows", _info_nce(0, 6, 3)),
    Case("info_nce", "no-columns", _info_nce(2, 6, 0)),
    Case("info_nce_expected", "some", _info_nce(5, 11, 3, q=4)),
    Case("info_nce_expected", "nothing-left", _info_nce(3, 5, 3, q=5, kind="nothing left")),
    Case("info_nce_expected", "tile-edges", _info_nce(70, 301, 67, q=9)),
    Case("info_nce_expected", "split-sum", _info_nce(3, 2500, 7)),
    Case("info_nce_expected", "wide", _info_nce(5, 70, 200, q=2)),
    Case("info_nce_expected", "several-panels", _info_nce(130, 200, 16, temperature=0.1)),
    Case("info_nce_expected", "not-finite", _info_nce(6, 300, 5, q=3, kind="not finite")),
    Case("info_nce_expected", "bf16-bank", _info_nce(5, 150, 33, bank=torch.bfloat16)),
    Case("info_nce_expected", "f16-bank", _info_nce(5, 150, 33, bank=torch.float16)),
    Case("info_nce_expected", "no-columns", _info_nce(2, 6, 0)),
]
EXPECTED = {"info_nce": reference.info_nce, "info_nce_expected": reference.info_nce_expected}
