"""RowAdam is Adam: on all rows it is torch.optim.Adam, on some rows it is Adam run on each of them alone."""

from __future__ import annotations

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsc_ext


def test_on_dense_gradients_it_is_torch_adam() -> None:
    mine = torch.nn.Parameter(torch.randn(7, 30))
    theirs = torch.nn.Parameter(mine.detach().clone())
    row, whole = (
        dsc_ext.RowAdam([mine], lr=3e-3, weight_decay=0.2),
        torch.optim.Adam([theirs], lr=3e-3, weight_decay=0.2),
    )
    for _ in range(20):
        mine.grad = torch.randn(7, 30)
        theirs.grad = mine.grad.clone()
        row.step()
        whole.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True), min_size=1, max_size=8),
    seed=st.integers(0, 2**31),
)
def test_each_row_is_optimized_as_if_alone(batches: list[list[int]], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    start = torch.randn(5, 6, generator=random, dtype=torch.float64)
    together = torch.nn.Parameter(start.clone())
    alone = [torch.nn.Parameter(row.clone()) for row in start]
    optimizer = dsc_ext.RowAdam([together], lr=0.05, weight_decay=0.3)
    optimizers = [torch.optim.Adam([row], lr=0.05, weight_decay=0.3) for row in alone]
    for rows in batches:
        values = torch.randn(len(rows), 6, generator=random, dtype=torch.float64)
        before = together.detach().clone()
        together.grad = torch.sparse_coo_tensor(torch.tensor([rows]), values, (5, 6))
        optimizer.step()
        for row, gradient in zip(rows, values, strict=True):
            alone[row].grad = gradient.clone()
            optimizers[row].step()
        untouched = [i for i in range(5) if i not in rows]
        assert torch.equal(together[untouched], before[untouched])  # rows outside the batch never move
    torch.testing.assert_close(together.detach(), torch.stack([row.detach() for row in alone]))


def test_penalties_are_those_of_the_loss() -> None:
    """weight_decay = 2λ is the gradient of λ‖C‖², l1 = λ that of λ‖C‖₁."""
    mine = torch.nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
    theirs = torch.nn.Parameter(mine.detach().clone())
    target = torch.randn(4, 4, dtype=torch.float64)
    row = dsc_ext.RowAdam([mine], lr=0.01, weight_decay=2 * 0.7, l1=0.4)
    whole = torch.optim.Adam([theirs], lr=0.01)
    for _ in range(10):
        for parameter, penalty in ((mine, 0.0), (theirs, 0.7 * theirs.square().sum() + 0.4 * theirs.abs().sum())):
            parameter.grad = None
            ((parameter - target).square().sum() + penalty).backward()
        row.step()
        whole.step()
    torch.testing.assert_close(mine, theirs)


def test_state_survives_a_round_trip() -> None:
    parameter = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = dsc_ext.RowAdam([parameter], lr=0.1)

    def step(optimizer: dsc_ext.RowAdam, parameter: torch.nn.Parameter, seed: int) -> None:
        values = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
        parameter.grad = torch.sparse_coo_tensor(torch.tensor([[seed % 4, 3]]), values, (4, 3))
        optimizer.step()

    for seed in range(3):
        step(optimizer, parameter, seed)
    twin = torch.nn.Parameter(parameter.detach().clone())
    resumed = dsc_ext.RowAdam([twin], lr=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, parameter, 5)
    step(resumed, twin, 5)
    assert torch.equal(parameter, twin)
    assert next(iter(resumed.state.values()))["row_step"].dtype == torch.int64


def test_duplicate_rows_add_their_gradients() -> None:
    start, values = torch.randn(3, 5), torch.randn(3, 5)
    once, twice = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    twice.grad = torch.sparse_coo_tensor(torch.tensor([[2, 0, 2]]), values, (3, 5))
    once.grad = twice.grad.coalesce()
    for parameter in (once, twice):
        dsc_ext.RowAdam([parameter], lr=0.1).step()
    torch.testing.assert_close(once, twice)
