"""bank_push_: the bank is a queue."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsc_ext

seeds = st.integers(0, 2**31)
few = settings(max_examples=40, deadline=None)


@few
@given(N=st.integers(1, 12), batches=st.lists(st.integers(0, 30), min_size=1, max_size=6), seed=seeds)
def test_push_is_a_queue(N: int, batches: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    bank, cursor, seen = torch.zeros(N, 2), torch.zeros((), dtype=torch.int64), 0
    wanted = torch.zeros(N, 2)
    for B in batches:
        Z = torch.randn(B, 2, generator=random)
        dsc_ext.bank_push_(bank, cursor, Z)
        for row in Z:
            wanted[seen % N] = row
            seen += 1
        assert torch.equal(bank, wanted) and int(cursor) == seen % N
