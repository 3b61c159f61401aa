"""sparse_self_expression is self_expression on the matrix its entries make; its step is RowAdam on its gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dsc_ext
from dsc_ext import reference

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)


def problem(
    N: int, k: int, d: int, B: int | None, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """values, indices (padded, repeated, on the diagonal), M, rows (repeated) and Z."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(N, k, generator=random, dtype=dtype)
    indices = torch.randint(-1, N, (N, k), generator=random)
    M = torch.randn(N, d, generator=random, dtype=dtype)
    if B is None:
        return values, indices, M, None, None
    rows = torch.randint(N, (B,), generator=random)
    return values, indices, M, rows, torch.randn(B, d, generator=random, dtype=dtype)


def dense(values: Tensor, indices: Tensor) -> Tensor:
    """The (N, N) matrix with these entries, differentiable."""
    N = values.shape[0]
    row = torch.arange(N)[:, None].expand_as(indices)
    return values.new_zeros(N, N + 1).index_put((row, indices % (N + 1)), values, accumulate=True)[:, :N]


@settings(max_examples=60, deadline=None)
@given(
    N=sizes, k=st.integers(0, 40), d=st.integers(1, 90), B=st.one_of(st.none(), sizes), seed=seeds,
    zero_diagonal=st.booleans(), splice=st.booleans(),
)  # fmt: skip
def test_it_is_the_dense_op_with_the_same_gradients(
    N: int, k: int, d: int, B: int | None, seed: int, zero_diagonal: bool, splice: bool
) -> None:
    values, indices, M, rows, Z = problem(N, k, d, B, seed)
    Z = Z if splice else None
    inputs = [x.requires_grad_() for x in (values, M, Z) if x is not None]
    found = dsc_ext.sparse_self_expression(values, indices, M, rows=rows, Z=Z, zero_diagonal=zero_diagonal)
    wanted = dsc_ext.self_expression(dense(values, indices), M, rows, Z, zero_diagonal=zero_diagonal)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    for mine, theirs in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((wanted * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_sparse_gradient_is_the_dense_one() -> None:
    values, indices, M, rows, Z = problem(9, 4, 5, 6)
    whole, batch = values.clone().requires_grad_(), values.clone().requires_grad_()
    dsc_ext.sparse_self_expression(whole, indices, M, rows=rows, Z=Z).square().sum().backward()
    dsc_ext.sparse_self_expression(batch, indices, M, rows=rows, Z=Z, sparse_grad=True).square().sum().backward()
    assert whole.grad is not None and batch.grad is not None
    assert batch.grad.is_sparse and batch.grad._values().shape == (6, 4)
    torch.testing.assert_close(batch.grad.to_dense(), whole.grad)


def test_gradients_survive_compilation() -> None:
    torch._dynamo.reset()
    values, indices, M, rows, Z = problem(9, 4, 5, 6)

    def loss(values: Tensor, M: Tensor, Z: Tensor) -> Tensor:
        return dsc_ext.sparse_self_expression(values, indices, M, rows=rows, Z=Z, sparse_grad=True).square().sum()

    found = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        inputs = [x.detach().clone().requires_grad_() for x in (values, M, Z) if x is not None]
        run(*inputs).backward()
        found.append([x.grad for x in inputs])
    assert found[1][0].is_sparse
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled.to_dense() if compiled.is_sparse else compiled, eager.to_dense())


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16])
def test_a_16_bit_bank_gives_float32_and_takes_its_gradient_in_16_bits(storage: torch.dtype) -> None:
    values, indices, M, rows, Z = problem(40, 12, 33, 9, dtype=torch.float32)
    bank = M.to(storage).requires_grad_()
    wide = bank.detach().float().requires_grad_()
    found = dsc_ext.sparse_self_expression(values, indices, bank, rows=rows, Z=Z)
    wanted = dsc_ext.sparse_self_expression(values, indices, wide, rows=rows, Z=Z)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert bank.grad is not None and wide.grad is not None and bank.grad.dtype == storage
    torch.testing.assert_close(bank.grad, wide.grad.to(storage))


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16])
def test_every_16_bit_number_is_widened_exactly(storage: torch.dtype, backend: torch.device) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(storage).to(backend)
    bank = every.view(512, 128)
    one, own = torch.ones(512, 1, device=backend), torch.arange(512, device=backend)[:, None]
    found = dsc_ext.sparse_self_expression(one, own, bank, zero_diagonal=False)
    assert torch.equal(found.nan_to_num(nan=7.0), bank.float().nan_to_num(nan=7.0))


def test_padding_hides_what_is_not_a_number() -> None:
    M = torch.tensor([[float("nan")], [2.0]])
    values, indices = torch.tensor([[float("inf"), 3.0]], requires_grad=True), torch.tensor([[-1, 1]])
    out = dsc_ext.sparse_self_expression(values, indices, M, zero_diagonal=False)
    assert out.tolist() == [[6.0]]
    out.sum().backward()
    assert values.grad is not None and values.grad.tolist() == [[0.0, 2.0]]


def test_autocast_computes_in_float32() -> None:
    values, indices, M, rows, Z = problem(9, 4, 5, 6, dtype=torch.float32)
    assert Z is not None
    with torch.autocast("cpu", torch.bfloat16):
        found = dsc_ext.sparse_self_expression(values.bfloat16(), indices, M, rows=rows, Z=Z.bfloat16())
    wanted = reference.sparse_self_expression(values.bfloat16().float(), indices, M, rows, Z.bfloat16().float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_hub_named_by_all_is_the_same_bits_for_any_number_of_threads(threads: int) -> None:
    N, k, d = 3000, 6, 24
    values, indices, M, _, _ = problem(N, k, d, None, dtype=torch.float32)
    indices[:, 2] = 17
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            bank = M.clone().requires_grad_()
            dsc_ext.sparse_self_expression(values, indices, bank).square().sum().backward()
            found.append(bank.grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_offsets_beyond_two_to_the_31() -> None:
    try:  # two rows far apart need two pages
        bank = torch.empty(2**31 + 14).as_strided((2, 9), (2**31 + 5, 1))
    except RuntimeError as error:
        pytest.skip(f"cannot reserve 8 GB of address space: {error}")
    bank.copy_(torch.randn(2, 9))
    values, indices = torch.randn(3, 2), torch.tensor([[1, 0], [1, -1], [0, 1]])
    torch.testing.assert_close(
        dsc_ext.sparse_self_expression(values, indices, bank, zero_diagonal=False),
        reference.sparse_self_expression(values, indices, bank.clone(), zero_diagonal=False),
    )


@settings(max_examples=30, deadline=None)
@given(
    N=sizes, k=st.integers(1, 20), d=sizes, seed=seeds, zero_diagonal=st.booleans(), splice=st.booleans(),
    batches=st.lists(st.one_of(st.none(), sizes), min_size=1, max_size=4),
)  # fmt: skip
def test_the_step_is_row_adam_on_the_gradient(
    N: int, k: int, d: int, seed: int, zero_diagonal: bool, splice: bool, batches: list[int | None]
) -> None:
    values, indices, M, _, _ = problem(N, k, d, None, seed)
    theirs = torch.nn.Parameter(values.clone())
    optimizer = dsc_ext.RowAdam([theirs], lr=0.01, weight_decay=0.3, l1=0.05)
    m, v, count = torch.zeros_like(values), torch.zeros_like(values), torch.zeros(N, dtype=torch.int64)
    for i, B in enumerate(batches):
        *_, rows, Z = problem(N, k, d, B, seed + i)
        Z = Z if splice else None
        options = {"rows": rows, "Z": Z, "zero_diagonal": zero_diagonal}
        found = dsc_ext.sparse_self_expression(theirs, indices, M, sparse_grad=True, **options)
        optimizer.zero_grad()
        found.square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            G = 2 * dsc_ext.sparse_self_expression(values, indices, M, **options)
        dsc_ext.sparse_self_expression_step_(
            values, indices, m, v, count, G, M, rows, Z, lr=0.01, weight_decay=0.3, l1=0.05,
            zero_diagonal=zero_diagonal,
        )  # fmt: skip
        state = optimizer.state[theirs]
        assert torch.equal(count, state["row_step"])
        for mine, other in ((m, state["exp_avg"]), (v, state["exp_avg_sq"]), (values, theirs.detach())):
            torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)


def test_the_proximal_step_reaches_the_lasso() -> None:
    """ISTA on ½‖Z − Ẑ‖² + λ‖values‖₁ ends where its optimality conditions hold, with exact zeros."""
    values, indices, M, _, _ = problem(12, 5, 7, None)
    penalty, lr = 2.0, 0.01
    for _ in range(4000):
        G = dsc_ext.sparse_self_expression(values, indices, M) - M
        dsc_ext.sparse_self_expression_step_(values, indices, None, None, None, G, M, lr=lr, l1=penalty, proximal=True)
    grad = reference.sparse_self_expression_grad(dsc_ext.sparse_self_expression(values, indices, M) - M, indices, M)
    kept = values != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(grad[kept], -penalty * values[kept].sign(), rtol=1e-5, atol=1e-5)
    assert grad[~kept].abs().max() <= penalty * (1 + 1e-6)


@pytest.mark.parametrize("bad", ["row", "index"])
def test_a_refused_step_changes_nothing(bad: str) -> None:
    values, indices, M, rows, Z = problem(9, 4, 5, 6)
    assert rows is not None
    (rows if bad == "row" else indices)[-1] = 9
    rows[0] = 8  # names the row with the bad index
    m, v, count = torch.zeros_like(values), torch.zeros_like(values), torch.zeros(9, dtype=torch.int64)
    before = values.clone()
    with pytest.raises(IndexError, match=r"rows must lie in|indices must be below N"):
        dsc_ext.sparse_self_expression_step_(
            values, indices, m, v, count, torch.ones(6, 5, dtype=M.dtype), M, rows, Z, lr=1.0
        )
    assert torch.equal(values, before) and not count.any() and not m.any()
