"""What must hold of topk_coefficients whatever the numbers, and what its case table cannot say."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simt import build

import dsc_ext
from dsc_ext import _native, reference

seeds = st.integers(0, 2**31)
few = settings(max_examples=40, deadline=None)


def by_sorting(c: torch.Tensor, own: list[int], k: int, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row in Python: sorted by (−rank, column), own column left out, padded."""
    values, indices = torch.zeros(c.shape[0], k, dtype=c.dtype), torch.full((c.shape[0], k), -1)
    for b, row in enumerate(c.tolist()):
        columns = [j for j in range(len(row)) if j != own[b]]
        columns.sort(key=lambda j, row=row: (-(row[j] if signed else abs(row[j])), j))  # type: ignore[misc]
        for place, j in enumerate(columns[:k]):
            values[b, place], indices[b, place] = row[j], j
    return values, indices


@few
@given(B=st.integers(1, 40), N=st.integers(1, 90), k=st.integers(1, 100), seed=seeds, signed=st.booleans())
def test_it_is_a_sort_by_rank_and_column(B: int, N: int, k: int, seed: int, signed: bool) -> None:
    """Of small integers, so that ties abound and products are exact."""
    random = torch.Generator().manual_seed(seed)
    Q, K = (torch.randint(-2, 3, (rows, 3), generator=random).float() for rows in (B, N))
    C = Q @ K.T
    rows = torch.randint(N, (B,), generator=random)
    wanted = by_sorting(C, rows.tolist(), k, signed)
    found = dsc_ext.topk_coefficients((Q, K), k, rows=rows, signed=signed)
    assert all(map(torch.equal, found, wanted))
    everywhere = torch.zeros(N, N).index_copy(0, rows, C)  # the last duplicate's scores
    last = torch.tensor([max(i for i in range(B) if rows[i] == rows[b]) for b in range(B)])
    found = dsc_ext.topk_coefficients(everywhere, k, rows=rows, signed=signed)
    assert torch.equal(found[1], wanted[1][last]) and torch.equal(found[0], wanted[0][last])


@pytest.mark.parametrize("d", [16, 64, 200])
def test_the_selection_is_that_of_float64_but_for_ties_within_rounding(d: int) -> None:
    random = torch.Generator().manual_seed(1)
    Q, K = torch.randn(300, d, generator=random), torch.randn(3000, d, generator=random)
    values, indices = dsc_ext.topk_coefficients((Q, K), 20, rows=torch.arange(300))
    exact = (Q.double() @ K.double().T).fill_diagonal_(0)
    slack = 1e-5 * d**0.5
    torch.testing.assert_close(values.double(), exact.gather(1, indices), rtol=0, atol=slack)
    kth = exact.abs().topk(20).values[:, -1:]
    assert (exact.gather(1, indices).abs() >= kth - slack).all()
    assert all(len(set(row)) == 20 for row in indices.tolist())


def test_more_threads_than_queries_share_the_samples() -> None:
    Q, K = torch.randn(5, 8), torch.randn(9001, 8)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 4, 7):
            torch.set_num_threads(count)
            found.append([dsc_ext.topk_coefficients((Q, K), k, rows=torch.arange(5)) for k in (3, 3000)])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(
            torch.equal(x, y) for one, two in zip(found[0], other, strict=True) for x, y in zip(one, two, strict=True)
        )


def test_the_first_bar_lets_equal_numbers_pass() -> None:
    """Rows long enough that maxima of groups set a bar, whose k best all lie exactly on it."""
    for signed in (False, True):
        for value in (0.0, -2.5, 2.5, float("-inf"), float("inf")):
            C = torch.full((3, 4000), value)
            values, indices = dsc_ext.topk_coefficients(C, 7, signed=signed, zero_diagonal=False)
            assert torch.equal(indices, torch.arange(7).expand(3, 7)) and (values == value).all()
    zeros = torch.zeros(2, 3), torch.randn(3000, 3)
    assert torch.equal(dsc_ext.topk_coefficients(zeros, 5)[1], torch.tensor([[1, 2, 3, 4, 5], [0, 2, 3, 4, 5]]))


def test_nan_comes_first_and_negative_zero_is_zero() -> None:
    nan, inf = float("nan"), float("inf")
    C = torch.tensor([[1.0, -nan, inf, nan, -inf]])
    for signed, order in ((False, [1, 3, 2, 4, 0]), (True, [1, 3, 2, 0, 4])):
        assert dsc_ext.topk_coefficients(C, 5, signed=signed, zero_diagonal=False)[1].tolist() == [order]
    C = torch.tensor([[-0.0, 0.0, -0.0]])
    for signed in (False, True):
        assert dsc_ext.topk_coefficients(C, 3, signed=signed, zero_diagonal=False)[1].tolist() == [[0, 1, 2]]


def test_what_is_missing_is_padding_to_the_affinity() -> None:
    C = torch.tensor([[0.0, 2.0], [-4.0, 0.0]])
    values, indices = dsc_ext.topk_coefficients(C, 3)
    assert indices.tolist() == [[1, -1, -1], [0, -1, -1]] and values[:, 1:].eq(0).all()
    torch.testing.assert_close(dsc_ext.symmetrize_affinity(values, indices).to_dense(), (C.abs() + C.abs().T) / 2)


def test_a_shard_is_its_rows() -> None:
    Q, K = torch.randn(6, 4), torch.randn(20, 4)
    whole = dsc_ext.topk_coefficients((torch.cat([torch.zeros(9, 4), Q, torch.zeros(5, 4)]), K), 4)
    shard = dsc_ext.topk_coefficients((Q, K), 4, row_offset=9)
    named = dsc_ext.topk_coefficients((Q, K), 4, rows=torch.arange(9, 15))
    C = Q @ K.T
    matrix = dsc_ext.topk_coefficients(C, 4, row_offset=9)
    for mine, other, third, full in zip(shard, named, matrix, whole, strict=True):
        assert torch.equal(mine, other) and torch.equal(mine, full[9:15])
        torch.testing.assert_close(mine, third)


def test_gradients_of_a_matrix_can_be_sparse() -> None:
    rows, weight = torch.tensor([4, 1, 4]), torch.randn(3, 2)
    C = torch.randn(6, 6)
    dense, sparse = C.clone().requires_grad_(), C.clone().requires_grad_()
    (dsc_ext.topk_coefficients(dense, 2, rows=rows)[0] * weight).sum().backward()
    (dsc_ext.topk_coefficients(sparse, 2, rows=rows, sparse_grad=True)[0] * weight).sum().backward()
    assert sparse.grad.is_sparse and sparse.grad._values().shape == (3, 6)
    torch.testing.assert_close(sparse.grad.to_dense(), dense.grad)
    assert dense.grad.count_nonzero() == 4


def test_indices_take_no_gradient_and_16_bit_gradients_come_back_in_16_bits() -> None:
    Q, K = (torch.randn(n, 8).bfloat16().requires_grad_() for n in (5, 9))
    values, indices = dsc_ext.topk_coefficients((Q, K), 3)
    assert values.dtype == torch.float32 and not indices.requires_grad
    values.sum().backward()
    wide_Q, wide_K = (x.detach().float().requires_grad_() for x in (Q, K))
    (wide_Q @ wide_K.T).gather(1, indices).sum().backward()
    for mine, wanted in ((Q.grad, wide_Q.grad), (K.grad, wide_K.grad)):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.float(), wanted, rtol=8e-3, atol=8e-3)


def test_without_keys_there_is_no_gradient() -> None:
    Q, K = torch.randn(3, 4, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
    dsc_ext.topk_coefficients((Q, K), 2, zero_diagonal=False)[0].sum().backward()
    assert Q.grad.eq(0).all() and K.grad.shape == (0, 4)


def test_under_autocast_it_is_float32() -> None:
    Q, K = torch.randn(4, 8), torch.randn(7, 8)
    with torch.autocast("cpu", torch.bfloat16):
        values, _ = dsc_ext.topk_coefficients((Q, K.bfloat16()), 3)
    torch.testing.assert_close(values, dsc_ext.topk_coefficients((Q, K.bfloat16().float()), 3)[0])


def test_in_tf32_small_integers_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_native.backends, "cpu", build.emulator().cuda)
    monkeypatch.setattr(_native, "tf32", lambda like: like.dtype == torch.float32)
    Q, K = torch.randint(-9, 10, (5, 40)).float(), torch.randint(-9, 10, (80, 40)).float()
    for signed in (False, True):
        found = dsc_ext.topk_coefficients((Q, K), 7, rows=torch.arange(5), signed=signed)
        assert all(map(torch.equal, found, reference.topk_coefficients(Q, K, 7, None, signed)))


def test_the_lists_of_a_gpu_stay_small(cuda: ModuleType) -> None:
    """Scratch is linear in B whatever N, but for the few splits that a small batch needs to fill a GPU."""
    f32, f64 = _native.DTYPES[torch.float32], _native.DTYPES[torch.float64]
    list_bytes = 384 * 8 + 4
    for d in (1, 64, 4096):
        assert cuda.topk_inner_products_scratch(f32, 0, 100_000, 100_000, d, 50) == 100_000 * list_bytes
        assert cuda.topk_inner_products_scratch(f32, 0, 64, 100, d, 50) == 64 * list_bytes
        splits = cuda.topk_inner_products_scratch(f32, 0, 64, 100_000, d, 50) / (64 * list_bytes)
        assert splits == int(splits) and 16 < splits <= 264
        assert cuda.topk_inner_products_scratch(f64, 0, 64, 100, d, 50) == 64 * (384 * 16 + 4)
    assert cuda.topk_coefficients_most() == 256


def test_shared_memory_fits_every_gpu(cuda: ModuleType) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for d in (0, 1, 32, 33, 64, 65, 128, 129, 5000):
            needed = cuda.topk_inner_products_shared(_native.DTYPES[dtype], d)
            assert 0 < needed <= 99 * 1024 - 2048  # sm_86, less what the kernel has beside it
