"""What must hold of each op whatever the numbers: properties over many shapes, and the public functions' own
options.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import scipy.sparse
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


@few
@given(n=st.integers(1, 30), k=st.integers(0, 9), seed=seeds, reduce=st.sampled_from(["mean", "max", "t-conorm"]))
def test_affinity_is_symmetric_sorted_and_the_same_from_every_form(n: int, k: int, seed: int, reduce: str) -> None:
    random = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(n, generator=random)[: min(k, n)] for _ in range(n)])
    values = torch.randn(indices.shape, generator=random, dtype=torch.float64)
    dense = torch.zeros(n, n, dtype=torch.float64).scatter_(1, indices, values)
    W = dsc_ext.symmetrize_affinity(values, indices, reduce=reduce)
    torch.sparse_csr_tensor(
        W.crow_indices(), W.col_indices(), W.values(), (n, n), check_invariants=True
    )  # sorted, unique
    assert torch.equal(W.to_dense(), W.to_dense().T)
    pair = torch.stack([dense.abs(), dense.abs().T])
    joined = {"mean": pair.mean(0), "max": pair.amax(0), "t-conorm": 1 - (1 - pair.clamp(max=1)).prod(0)}
    torch.testing.assert_close(W.to_dense(), joined[reduce])
    torch.testing.assert_close(dsc_ext.symmetrize_affinity(dense, reduce=reduce).to_dense(), W.to_dense())
    torch.testing.assert_close(
        dsc_ext.symmetrize_affinity(dense.to_sparse_csr(), reduce=reduce).to_dense(), W.to_dense()
    )


def test_affinity_threshold_drops_small_entries_from_every_form() -> None:
    dense = torch.tensor([[0.0, 0.5, 2.0], [0.0, 0.0, 0.1], [-3.0, 0.0, 0.0]])
    wanted = torch.tensor([[0.0, 0.0, 2.5], [0.0, 0.0, 0.0], [2.5, 0.0, 0.0]])
    indices = torch.arange(3).repeat(3, 1)
    for W in (
        dsc_ext.symmetrize_affinity(dense, threshold=0.5),
        dsc_ext.symmetrize_affinity(dense.to_sparse_csr(), threshold=0.5),
        dsc_ext.symmetrize_affinity(dense, indices, threshold=0.5),
    ):
        torch.testing.assert_close(W.to_dense(), wanted)


def test_affinity_keeps_nan_visible() -> None:
    dense = torch.tensor([[0.0, float("nan")], [1.0, 0.0]])
    for reduce in ("mean", "max", "t-conorm"):
        assert dsc_ext.symmetrize_affinity(dense, reduce=reduce).to_dense().isnan().sum() == 2


def test_affinity_gradient_reaches_the_values_through_a_product() -> None:
    C = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    X = torch.randn(6, 2, dtype=torch.float64)
    (dsc_ext.symmetrize_affinity(C) @ X).square().sum().backward()
    found, C.grad = C.grad, None
    (((C.abs() + C.abs().T) / 2) @ X).square().sum().backward()
    torch.testing.assert_close(found, C.grad)


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


def test_saved_bank_overwritten_before_backward_is_noticed() -> None:
    C, bank = torch.randn(4, 4, requires_grad=True), torch.randn(4, 3)
    out = dsc_ext.self_expression(C, bank, torch.tensor([1]))
    dsc_ext.bank_scatter_(bank, torch.tensor([0]), torch.zeros(1, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# Adjacent rows of one huge storage would need its size in memory; two rows far apart need two pages.
FAR = 2**31 + 5


@pytest.fixture
def far_apart() -> torch.Tensor:
    """(2, 9) whose rows lie more than 2³¹ elements from one another; the 8 GB between them are never touched."""
    try:
        storage = torch.empty(FAR + 9)
    except RuntimeError as error:
        pytest.skip(f"cannot reserve 8 GB of address space: {error}")
    matrix = storage.as_strided((2, 9), (FAR, 1))
    matrix.copy_(torch.randn(2, 9))
    return matrix


def test_offsets_beyond_two_to_the_31(far_apart: torch.Tensor) -> None:
    near = far_apart.clone()
    M, rows = torch.randn(9, 3), torch.tensor([1, 0, 1])
    torch.testing.assert_close(
        dsc_ext.self_expression(far_apart, M, rows, zero_diagonal=False),
        reference.self_expression(near, M, rows, None, False),
    )
    torch.testing.assert_close(
        dsc_ext.threshold_coefficients(far_apart, 0.4), reference.threshold_coefficients(near, 0.4)
    )
    a, own = torch.randn(2, 9), torch.tensor([0, 1])
    torch.testing.assert_close(dsc_ext.info_nce(a, a, far_apart, own), reference.info_nce(a, a, near, own).mean())
    threshold = torch.tensor(0.5)
    torch.testing.assert_close(
        dsc_ext.inner_product_self_expression(far_apart, far_apart, far_apart, threshold)[:],
        dsc_ext.inner_product_self_expression(near, near, near, threshold)[:],
    )
    Z = torch.randn(1, 9)
    dsc_ext.bank_scatter_(far_apart, torch.tensor([1]), Z)
    assert torch.equal(far_apart, torch.stack([near[0], Z[0]]))
    dsc_ext.bank_push_(far_apart, torch.tensor(1), Z + 1)
    assert torch.equal(far_apart[1], Z[0] + 1)


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


def test_layer_in_a_mini_batch() -> None:
    layer, bank = dsc_ext.SelfExpressiveCUDA(6, zero_diagonal=True, init=0.5), dsc_ext.MemoryBank(6, 2)
    bank.fill(torch.randn(6, 2))
    rows, z = torch.tensor([4, 1]), torch.randn(2, 2, requires_grad=True)
    spliced, alone = layer(z, rows, bank), layer(z, rows, bank, splice=False)
    torch.testing.assert_close(spliced, reference.self_expression(layer.Coefficient, bank.features, rows, z))
    torch.testing.assert_close(alone, reference.self_expression(layer.Coefficient, bank.features, rows))
    alone.sum().backward()
    assert z.grad is None and layer.Coefficient.grad.is_sparse


@pytest.mark.parametrize("kind", ["sorted", "unsorted", "hub"])
@pytest.mark.parametrize("threads", [1, 3])
def test_large_affinity_is_scipys(kind: str, threads: int) -> None:
    """Many blocks of rows; with the hub one block receives far more than its share."""
    n, k = (20_000, 3) if kind == "hub" else (3000, 40)
    random = torch.Generator().manual_seed(0)
    columns = torch.randint(n, (n, k), generator=random)
    if kind == "hub":
        columns[:, 0] = 5
    if kind != "unsorted":
        columns = columns.sort(dim=1).values
    values = torch.randn(n, k, generator=random, dtype=torch.float64)
    A = scipy.sparse.csr_array(
        (values.abs().numpy().ravel(), columns.numpy().ravel(), torch.arange(n + 1).numpy() * k), shape=(n, n)
    )
    wanted = (A + A.T) / 2
    wanted.sum_duplicates()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        W = dsc_ext.symmetrize_affinity(values, columns)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(W.crow_indices(), torch.from_numpy(wanted.indptr).long())
    assert torch.equal(W.col_indices(), torch.from_numpy(wanted.indices).long())
    torch.testing.assert_close(W.values(), torch.from_numpy(wanted.data))
