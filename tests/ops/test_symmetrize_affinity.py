"""symmetrize_affinity: every form of C gives the same W, and SciPy's where it is large."""

from __future__ import annotations

import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsc_ext

seeds = st.integers(0, 2**31)
few = settings(max_examples=40, deadline=None)


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
