"""threshold_coefficients: what is kept, for any shape, and that it is the loop it replaces."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsc_ext

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)
few = settings(max_examples=40, deadline=None)


@few
@given(n=sizes, m=sizes, seed=seeds, rho=st.floats(0, 1.2))
def test_threshold_keeps_the_smallest_set_that_exceeds_the_share(n: int, m: int, seed: int, rho: float) -> None:
    C = torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kept = dsc_ext.threshold_coefficients(C, rho)
    assert torch.equal(kept[kept != 0], C[kept != 0])
    for row, out in zip(C.abs(), kept.abs(), strict=True):
        smallest_kept, largest_dropped = (
            out[out > 0].min(),
            row[out == 0].max() if (out == 0).any() else row.new_zeros(()),
        )
        assert smallest_kept >= largest_dropped
        if rho < 1:
            slack = 1e-12 * row.sum()
            assert out.sum() + slack > rho * row.sum() and out.sum() - smallest_kept <= rho * row.sum() + slack


def thr_c_by_the_loop(C: torch.Tensor, rho: float) -> torch.Tensor:
    """thrC as DSC-Net's release states it, one row at a time."""
    out = torch.zeros_like(C)
    for i, row in enumerate(C):
        order = row.abs().sort(descending=True, stable=True).indices
        total, taken = row.abs().sum().item(), 0.0
        for j in order.tolist():
            out[i, j] = row[j]
            taken += abs(row[j].item())
            if taken > rho * total:
                break
    return out


@few
@given(n=sizes, m=sizes, seed=seeds, rho=st.floats(0.01, 0.99))
def test_threshold_is_the_loop(n: int, m: int, seed: int, rho: float) -> None:
    C = torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.equal(dsc_ext.threshold_coefficients(C, rho), thr_c_by_the_loop(C, rho))
