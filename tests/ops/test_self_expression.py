"""self_expression and its layer: the reference's numbers for any shape, gradients, what intercepts calls."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsc_ext
from dsc_ext import reference

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)
few = settings(max_examples=40, deadline=None)


@few
@given(N=sizes, B=sizes, d=sizes, seed=seeds, zero_diagonal=st.booleans(), splice=st.booleans())
def test_self_expression_is_the_reference_for_any_shape(
    N: int, B: int, d: int, seed: int, zero_diagonal: bool, splice: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    C, M = (
        torch.randn(N, N, generator=random, dtype=torch.float64),
        torch.randn(N, d, generator=random, dtype=torch.float64),
    )
    rows = torch.randint(N, (B,), generator=random)
    Z = torch.randn(B, d, generator=random, dtype=torch.float64) if splice else None
    found = dsc_ext.self_expression(C, M, rows, Z, zero_diagonal=zero_diagonal)
    torch.testing.assert_close(found, reference.self_expression(C, M, rows, Z, zero_diagonal))


@few
@given(N=st.integers(1, 30), d=sizes, seed=seeds, zero_diagonal=st.booleans())
def test_the_whole_batch_is_the_full_layer(N: int, d: int, seed: int, zero_diagonal: bool) -> None:
    """With B = N the spliced op, its value and its gradients are those of the classic layer, in any order of rows."""
    random = torch.Generator().manual_seed(seed)
    C = torch.randn(N, N, generator=random, dtype=torch.float64, requires_grad=True)
    Z = torch.randn(N, d, generator=random, dtype=torch.float64, requires_grad=True)
    order = torch.randperm(N, generator=random)
    stale = torch.randn(N, d, generator=random, dtype=torch.float64)
    weight = torch.randn(N, d, generator=random, dtype=torch.float64)
    full = dsc_ext.self_expression(C, Z, zero_diagonal=zero_diagonal)
    batch = dsc_ext.self_expression(C, stale, order, Z[order], zero_diagonal=zero_diagonal)
    torch.testing.assert_close(batch, full[order])
    for mine, theirs in zip(
        torch.autograd.grad((batch * weight[order]).sum(), (C, Z)),
        torch.autograd.grad((full * weight).sum(), (C, Z)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_sparse_gradient_is_the_dense_one() -> None:
    N, rows = 6, torch.tensor([4, 1, 4])
    C, M, Z = torch.randn(N, N), torch.randn(N, 3), torch.randn(3, 3)
    dense, sparse = C.clone().requires_grad_(), C.clone().requires_grad_()
    dsc_ext.self_expression(dense, M, rows, Z).square().sum().backward()
    dsc_ext.self_expression(sparse, M, rows, Z, sparse_grad=True).square().sum().backward()
    assert sparse.grad.is_sparse and sparse.grad._values().shape == (3, N)
    torch.testing.assert_close(sparse.grad.to_dense(), dense.grad)


def test_sparse_gradient_survives_compilation() -> None:
    torch._dynamo.reset()
    layer, rows, bank, z = (
        dsc_ext.SelfExpressiveCUDA(6, init=0.1),
        torch.tensor([4, 1]),
        torch.randn(6, 3),
        torch.randn(2, 3),
    )
    layer(z, rows, bank).square().sum().backward()
    eager, layer.Coefficient.grad = layer.Coefficient.grad, None
    run = torch.compile(lambda z: layer(z, rows, bank).square().sum(), fullgraph=True, backend="aot_eager")
    run(z).backward()
    assert layer.Coefficient.grad.is_sparse
    torch.testing.assert_close(layer.Coefficient.grad.to_dense(), eager.to_dense())


@pytest.mark.parametrize("mode", ["autocast", "func.grad", "torch_function subclass"])
def test_self_expression_under_interception(mode: str) -> None:
    """The short way past the dispatcher is not taken where something has to see the call."""
    C, M = torch.randn(5, 5), torch.randn(5, 3)
    rows, Z = torch.tensor([3, 0]), torch.randn(2, 3)
    wanted = reference.self_expression(C, M, rows, Z)
    if mode == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = dsc_ext.self_expression(C, M.bfloat16(), rows, Z.bfloat16())
        assert found.dtype == torch.float32  # self-expression is ill-conditioned: it is computed in float32
        torch.testing.assert_close(
            found, reference.self_expression(C, M.bfloat16().float(), rows, Z.bfloat16().float())
        )
    elif mode == "func.grad":
        with pytest.raises(RuntimeError, match=r"setup_context|functorch"):
            torch.func.grad(lambda z: dsc_ext.self_expression(C, M, rows, z).sum())(Z)
    else:

        class Marked(torch.Tensor):
            pass

        torch.testing.assert_close(
            dsc_ext.self_expression(C.as_subclass(Marked), M, rows, Z).as_subclass(torch.Tensor), wanted
        )


def test_saved_bank_overwritten_before_backward_is_noticed() -> None:
    C, bank = torch.randn(4, 4, requires_grad=True), torch.randn(4, 3)
    out = dsc_ext.self_expression(C, bank, torch.tensor([1]))
    dsc_ext.bank_scatter_(bank, torch.tensor([0]), torch.zeros(1, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_layer_in_a_mini_batch() -> None:
    layer, bank = dsc_ext.SelfExpressiveCUDA(6, zero_diagonal=True, init=0.5), dsc_ext.MemoryBank(6, 2)
    bank.fill(torch.randn(6, 2))
    rows, z = torch.tensor([4, 1]), torch.randn(2, 2, requires_grad=True)
    spliced, alone = layer(z, rows, bank), layer(z, rows, bank, splice=False)
    torch.testing.assert_close(spliced, reference.self_expression(layer.Coefficient, bank.features, rows, z))
    torch.testing.assert_close(alone, reference.self_expression(layer.Coefficient, bank.features, rows))
    alone.sum().backward()
    assert z.grad is None and layer.Coefficient.grad.is_sparse


def test_modules_copy_pickle_and_load() -> None:
    layer = dsc_ext.SelfExpressiveCUDA(5)
    usual = {"Coefficient": torch.randn(5, 5)}
    layer.load_state_dict(usual)
    z = torch.randn(5, 3)
    torch.testing.assert_close(layer(z), usual["Coefficient"] @ z)  # what the layer it replaces computes
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(z), layer(z))
    bank = dsc_ext.MemoryBank(5, 3)
    bank.fill(z)
    other = dsc_ext.MemoryBank(5, 3)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.features, z)
