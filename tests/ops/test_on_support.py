"""The coefficients on a support are the optima they claim to be, and nothing that atoms can do makes them less."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet, orthogonal_mp_gram
from torch import Tensor

import dsc_ext
from dsc_ext import _native

sizes = st.integers(1, 25)
seeds = st.integers(0, 2**31)
few = settings(max_examples=40, deadline=None)


def problem(
    N: int, d: int, k: int, B: int, seed: int, common: float = 0.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows with a common part, supports with padding and, where k > N, repetitions, and targets."""
    random = torch.Generator().manual_seed(seed)
    X = torch.randn(N, d, generator=random, dtype=dtype) + common * torch.randn(1, d, generator=random, dtype=dtype)
    X = X / X.norm(dim=1, keepdim=True)
    whole = torch.stack([torch.randperm(N, generator=random) for _ in range(B)])
    indices = whole.repeat(1, -(-k // N))[:, :k]
    indices[torch.rand(indices.shape, generator=random) < 0.1] = -1
    return X, indices, torch.randn(B, d, generator=random, dtype=dtype)


def atoms_of(X: Tensor, indices: Tensor) -> Tensor:
    return torch.cat([X, X.new_zeros(1, X.shape[1])])[indices]


@few
@given(N=sizes, d=sizes, k=sizes, seed=seeds, lam=st.floats(1e-6, 10))
def test_ridge_has_no_gradient_left(N: int, d: int, k: int, seed: int, lam: float) -> None:
    X, indices, Q = problem(N, d, k, 4, seed)
    c, atoms = dsc_ext.ridge_on_support(X, indices, lam, Q=Q), atoms_of(X, indices)
    residual = Q - (c[..., None] * atoms).sum(1)
    torch.testing.assert_close((atoms * residual[:, None]).sum(2), lam * c, rtol=0, atol=1e-9)


@few
@given(
    N=sizes, d=sizes, k=sizes, seed=seeds, common=st.sampled_from([0.0, 3.0]),
    l1=st.floats(1e-4, 2), l2=st.sampled_from([0.0, 1e-3, 0.5]),
)  # fmt: skip
def test_elastic_net_is_optimal(N: int, d: int, k: int, seed: int, common: float, l1: float, l2: float) -> None:
    """By the conditions that an optimum meets, and only an optimum does: the problem is convex."""
    X, indices, Q = problem(N, d, k, 4, seed, common)
    c, atoms = dsc_ext.elastic_net_on_support(X, indices, l1, l2, Q=Q), atoms_of(X, indices)
    residual = Q - (c[..., None] * atoms).sum(1)
    correlation = (atoms * residual[:, None]).sum(2) - l2 * c
    active = c != 0
    torch.testing.assert_close(correlation[active], l1 * c[active].sign(), rtol=0, atol=1e-8)
    assert (correlation[~active].abs() <= l1 + 1e-8).all()


def test_elastic_net_is_scikit_learns() -> None:
    X, indices, Q = problem(40, 15, 25, 5, 0, common=1.0)
    c = dsc_ext.elastic_net_on_support(X, indices, 0.05, 0.02, Q=Q)
    model = ElasticNet(alpha=0.07 / 15, l1_ratio=0.05 / 0.07, fit_intercept=False, tol=1e-14, max_iter=10**6)
    for row, atoms, q in zip(c, atoms_of(X, indices), Q, strict=True):
        np.testing.assert_allclose(row.numpy(), model.fit(atoms.T.numpy(), q.numpy()).coef_, atol=1e-7)


@few
@given(N=st.integers(8, 25), d=st.integers(8, 25), k=st.integers(1, 8), n=st.integers(1, 6), seed=seeds)
def test_pursuit_is_scikit_learns(N: int, d: int, k: int, n: int, seed: int) -> None:
    X, indices, Q = problem(N, d, k, 3, seed)
    indices = indices.abs() % N  # no padding: scikit-learn has none
    found = dsc_ext.omp_on_support(X, indices, n, tolerance=0.0, Q=Q)
    for row, columns, q in zip(found, indices, Q, strict=True):
        if columns.unique().numel() < k:
            continue
        atoms = X[columns]
        wanted = orthogonal_mp_gram((atoms @ atoms.T).numpy(), (atoms @ q).numpy(), n_nonzero_coefs=min(n, k))
        np.testing.assert_allclose(row.numpy(), wanted, atol=1e-8)


@few
@given(N=sizes, d=sizes, k=sizes, seed=seeds, tolerance=st.sampled_from([0.5, 0.1, 1e-3]))
def test_pursuit_stops_at_the_tolerance(N: int, d: int, k: int, seed: int, tolerance: float) -> None:
    X, indices, Q = problem(N, d, k, 4, seed)
    atoms = atoms_of(X, indices)

    def share(n: int) -> Tensor:
        c = dsc_ext.omp_on_support(X, indices, n, tolerance=tolerance, Q=Q)
        assert ((c != 0).sum(1) <= n).all()
        return (Q - (c[..., None] * atoms).sum(1)).square().sum(1) / Q.square().sum(1)

    count = (dsc_ext.omp_on_support(X, indices, k, tolerance=tolerance, Q=Q) != 0).sum(1)
    for b in range(4):
        if 0 < count[b] < k and share(k)[b] <= tolerance:
            assert share(int(count[b]) - 1)[b] > tolerance * (1 - 1e-9)  # one atom fewer was not enough


def ops() -> list[object]:
    return [
        lambda X, indices, **options: dsc_ext.ridge_on_support(X, indices, 1e-12, **options),
        lambda X, indices, **options: dsc_ext.elastic_net_on_support(X, indices, 1e-3, 0.0, **options),
        lambda X, indices, **options: dsc_ext.omp_on_support(X, indices, 99, tolerance=0.0, **options),
    ]


every_op = pytest.mark.parametrize("op", ops(), ids=["ridge", "elastic-net", "omp"])


@every_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_atoms_that_span_one_another_do_no_harm(op, dtype: torch.dtype, backend: torch.device) -> None:  # type: ignore[no-untyped-def]
    """Repeated, opposite, nearly equal, in a plane, and more than there are features; Q in their span or not."""
    random = torch.Generator().manual_seed(0)
    base = torch.randn(30, 2, generator=random, dtype=torch.float64) @ torch.randn(
        2, 20, generator=random, dtype=torch.float64
    )
    base[10:20] = torch.randn(10, 20, generator=random, dtype=torch.float64)
    base[3], base[5], base[11] = base[2], -base[2], base[10] + 1e-6 * base[12]
    X = base.to(dtype)
    indices = torch.stack([torch.randint(30, (25,), generator=random) for _ in range(30)])
    indices[0, :6] = torch.tensor([2, 3, 5, 2, 10, 11])
    c = op(X, indices)
    assert c.isfinite().all()
    atoms = atoms_of(X, indices.masked_fill(indices == torch.arange(30)[:, None], -1))
    residual = X - (c[..., None] * atoms).sum(1)
    assert (residual.norm(dim=1) <= 1.001 * X.norm(dim=1) + 1e-3).all()
    planar = [b for b in range(30) if not 10 <= b < 20]  # their span is there many times over
    assert residual[planar].norm(dim=1).max() < 2e-2


def test_a_repeated_atom_counts_once_or_shares(backend: torch.device) -> None:
    X, _, Q = problem(9, 12, 1, 3, 0, dtype=torch.float32)
    once, twice = torch.tensor([[4, 7, 2]] * 3), torch.tensor([[4, 7, 4, 2, 7]] * 3)
    for op in ops()[1:]:
        one, two = (op(X, indices, Q=Q) for indices in (once, twice))  # type: ignore[operator]
        torch.testing.assert_close(two[:, [0, 1, 3]] + two[:, [2, 4, 2]] * torch.tensor([1.0, 1.0, 0.0]), one)
        assert (two[:, [0, 1]] * two[:, [2, 4]]).eq(0).all()
    assert two[:, [2, 4]].eq(0).all()  # the pursuit's is the first
    for shared in (
        dsc_ext.ridge_on_support(X, twice, 0.1, Q=Q),
        dsc_ext.elastic_net_on_support(X, twice, 0.01, 0.1, Q=Q),
    ):
        torch.testing.assert_close(shared[:, [0, 1]], shared[:, [2, 4]])


@every_op
def test_a_bad_row_stays_alone(op, backend: torch.device) -> None:  # type: ignore[no-untyped-def]
    X, indices, Q = problem(9, 12, 4, 6, 0, dtype=torch.float32)
    indices[:] = torch.tensor([1, 5, -1, 7])
    indices[4, 1], Q[2, 3], X[8, 0] = 8, float("inf"), float("nan")
    Q[0] = 1e30  # whose square is not finite
    c = op(X, indices, Q=Q)
    bad = torch.tensor([True, False, True, False, True, False])
    assert c[bad][:, [0, 1, 3]].isnan().all() and c[bad][:, 2].eq(0).all()
    assert c[~bad].isfinite().all()


@every_op
def test_a_sample_does_not_explain_itself(op, backend: torch.device) -> None:  # type: ignore[no-untyped-def]
    X, _, _ = problem(6, 8, 1, 1, 0, dtype=torch.float32)
    every = torch.arange(6).repeat(6, 1)
    c = op(X, every)
    assert c.diagonal().eq(0).all()
    torch.testing.assert_close(c, op(X, every.masked_fill(torch.eye(6, dtype=torch.bool), -1), Q=X))


@every_op
def test_gradients_of_many_rows_are_those_of_one_at_a_time(op, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from dsc_ext.ops import on_support

    X, indices, Q = problem(12, 20, 5, 7, 0)
    weight = torch.randn(7, 5, dtype=torch.float64)
    found = []
    for block in (on_support._BLOCK, 1):
        monkeypatch.setattr(on_support, "_BLOCK", block)
        inputs = [X.clone().requires_grad_(), Q.clone().requires_grad_()]
        (op(inputs[0], indices, Q=inputs[1]) * weight).sum().backward()
        found.append([x.grad for x in inputs])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_tiny_lambda_is_what_rounding_leaves_of_it() -> None:
    X, indices, Q = problem(20, 5, 12, 4, 0, dtype=torch.float32)
    c = dsc_ext.ridge_on_support(X, indices, 1e-30, Q=Q)
    floor = 22 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(c, dsc_ext.ridge_on_support(X, indices, floor * 0.999, Q=Q), rtol=0.05, atol=0.05)
    assert c.isfinite().all() and c.abs().max() < 100


def test_shared_memory_fits_every_gpu(cuda: ModuleType) -> None:
    for dtype, most in ((torch.float32, 120), (torch.float64, 80)):
        assert cuda.on_support_most(_native.DTYPES[dtype]) == most
        assert 0 < cuda.on_support_shared(_native.DTYPES[dtype], most) <= 99 * 1024  # sm_86
