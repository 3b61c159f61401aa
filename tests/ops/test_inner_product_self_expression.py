"""inner_product_self_expression beyond the case table: gradients through all three results on every backend, the
linear-time form without a threshold, memory that does not grow with N², precision and dtypes.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import dsc_ext
from dsc_ext import _native, inner_product_self_expression, reference
from ops import cases
from ops.cases import CASES, Case

OP = "inner_product_self_expression"
MINE = [c for c in CASES if c.op == OP]
SHAPES = [  # B, N, dq, dv: within a tile, its edges, several slices and splits, more columns than a block takes
    (5, 7, 3, 4),
    (66, 131, 65, 33),
    (130, 330, 20, 140),
    (3, 1100, 5, 6),
    (1100, 3, 6, 5),
]
sizes = st.integers(1, 40)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def problem(B: int, N: int, dq: int, dv: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Q, K, V, rows."""
    random = torch.Generator().manual_seed(seed)
    Q, K, V = (
        torch.randn(n, d, generator=random, dtype=torch.float64).to(dtype) for n, d in ((B, dq), (N, dq), (N, dv))
    )
    return [Q, K, V, torch.randint(N, (B,), generator=random)]


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """In relation to the largest number: sums of products cancel."""
    scale = max(wanted.abs().max().item(), 1e-3) if wanted.numel() else 1.0
    torch.testing.assert_close(found.double() / scale, wanted.double() / scale, rtol=0, atol=tolerance)


def gradients(function: object, inputs: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = function(*leaves)  # type: ignore[operator]
    return [x.detach() for x in (*outputs, *torch.autograd.grad(outputs, leaves, weights))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("zero_diagonal", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_through_every_result(
    shape: tuple[int, int, int, int], zero_diagonal: bool, dtype: torch.dtype, backend: torch.device
) -> None:
    *matrices, rows = (x.to(backend) for x in problem(*shape, dtype=dtype))
    threshold = torch.tensor([0.4], dtype=dtype, device=backend)
    B, dv = shape[0], shape[3]
    weights = [torch.randn(size, dtype=dtype).to(backend) for size in ((dv, B), (B,), (B,))]
    weights[0] = weights[0].T  # a gradient whose rows are not adjacent
    scale = -0.5 / shape[2]
    found = gradients(
        lambda *x: inner_product_self_expression(*x, scale, rows, zero_diagonal=zero_diagonal),
        [*matrices, threshold],
        weights,
    )
    wanted = gradients(
        lambda *x: reference.inner_product_self_expression(*x, scale, rows if zero_diagonal else None),
        [x.double() for x in (*matrices, threshold)],
        [x.double() for x in weights],
    )
    for mine, theirs in zip(found, wanted, strict=True):
        close(mine, theirs, 2e-5 if dtype == torch.float32 else 1e-12)


def test_samples_in_several_chunks_on_the_cpu() -> None:
    """4 MB of samples are packed at a time, slices are narrower where samples are wide."""
    *matrices, rows = problem(30, 1100, 1100, 900, dtype=torch.float32)
    inputs = [*matrices, torch.tensor(20.0)]
    weights = [torch.randn(size) for size in ((30, 900), (30,), (30,))]
    found = gradients(lambda *x: inner_product_self_expression(*x, 1e-3, rows), inputs, weights)
    wanted = gradients(
        lambda *x: reference.inner_product_self_expression(*x, 1e-3, rows),
        [x.double() for x in inputs],
        [x.double() for x in weights],
    )
    for mine, theirs in zip(found, wanted, strict=True):
        close(mine, theirs, 2e-5)


@pytest.mark.parametrize("threshold", [2.0, 0.0, -1.0])
def test_scores_on_the_threshold_and_at_zero_have_no_gradient(threshold: float, backend: torch.device) -> None:
    """As autograd has it for sign(s) relu(|s| − threshold); and ties are as many as they get."""
    random = torch.Generator().manual_seed(0)
    matrices = [
        torch.randint(-2, 3, (n, d), generator=random).double().to(backend) for n, d in ((40, 2), (50, 2), (50, 3))
    ]
    rows = torch.randperm(50, generator=random)[:40].to(backend)
    inputs = [*matrices, torch.tensor(threshold, dtype=torch.float64, device=backend)]
    weights = [torch.randn(size, dtype=torch.float64).to(backend) for size in ((40, 3), (40,), (40,))]
    for mine, theirs in zip(
        gradients(lambda *x: inner_product_self_expression(*x, 0.5, rows), inputs, weights),
        gradients(lambda *x: reference.inner_product_self_expression(*x, 0.5, rows), inputs, weights),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("case", [c for c in MINE if c.differentiable], ids=str)
def test_gradcheck_of_all_results_together(case: Case, backend: torch.device) -> None:
    arguments = case.arguments(torch.float64, backend)
    inputs = tuple(arguments[i].requires_grad_() for i in case.differentiable)

    def function(*inputs: Tensor) -> Tensor:
        filled = list(arguments)
        for i, value in zip(case.differentiable, inputs, strict=True):
            filled[i] = value
        Zhat, l1, l2 = cases.call(case, tuple(filled))
        return Zhat.square().sum() + (l1 * l2).sum()

    assert gradcheck(function, inputs)
    if case.label == "batch":  # by the reference, whatever the backend
        assert gradgradcheck(function, inputs)


def test_any_choice_of_wanted_gradients_gives_the_same_bits(backend: torch.device) -> None:
    *matrices, rows = (x.to(backend) for x in problem(70, 90, 20, 9, dtype=torch.float32))
    inputs = [*matrices, torch.tensor(0.3, device=backend)]

    def run(wanted: tuple[int, ...]) -> list[Tensor]:
        leaves = [x.detach().clone().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
        Zhat, l1, l2 = inner_product_self_expression(*leaves, 0.1, rows)
        (Zhat.sum() + l1.sum() + l2.sum()).backward()
        assert all((x.grad is not None) == (i in wanted) for i, x in enumerate(leaves))
        return [leaves[i].grad for i in wanted]

    everything = run((0, 1, 2, 3))
    for wanted in ((0,), (1,), (2,), (3,), (0, 2), (1, 2, 3)):
        for i, found in zip(wanted, run(wanted), strict=True):
            if i != 3:  # its sum is cut by the splits of dQ's pass, where that runs
                assert torch.equal(found, everything[i])
            torch.testing.assert_close(found, everything[i])


def test_gradients_are_the_same_bits_with_any_number_of_threads_and_every_time(backend: torch.device) -> None:
    *matrices, rows = (x.to(backend) for x in problem(200, 700, 20, 9, dtype=torch.float32))
    inputs = [*matrices, torch.tensor(0.3, device=backend)]
    weights = [torch.randn(size).to(backend) for size in ((200, 9), (200,), (200,))]
    threads, found = torch.get_num_threads(), []
    native = _native.load()
    assert native is not None
    try:
        for count in (1, 2, 3, 7, 7) if _native.backend(inputs[0]) is native.cpu else (1, 1):
            torch.set_num_threads(count)
            found.append(gradients(lambda *x: inner_product_self_expression(*x, 0.1, rows), inputs, weights))
    finally:
        torch.set_num_threads(threads)
    if _native.backend(matrices[0]) is None:
        return  # plain PyTorch: its summation order is the BLAS's
    for one, *others in zip(*found, strict=True):
        assert all(torch.equal(one, other) for other in others)


# ------------------------------------------------------------------------------------------------ without a threshold


@settings(max_examples=60, deadline=None)
@given(B=sizes, N=st.integers(1, 200), dq=st.integers(1, 12), dv=sizes, seed=st.integers(0, 2**31), zero=st.booleans())
def test_without_a_threshold_it_is_the_plain_product(B: int, N: int, dq: int, dv: int, seed: int, zero: bool) -> None:
    """In whichever order the products are taken, and so are its gradients."""
    *matrices, rows = problem(B, N, dq, dv, seed=seed)
    weights = [torch.randn(B, dv, dtype=torch.float64), torch.randn(B, dtype=torch.float64)]

    def mine(*x: Tensor) -> tuple[Tensor, Tensor]:
        Zhat, l1, l2 = inner_product_self_expression(*x, None, 0.3, rows, zero_diagonal=zero)
        assert l1 is None
        return Zhat, l2

    def theirs(*x: Tensor) -> tuple[Tensor, Tensor]:
        return reference.inner_product_self_expression(*x, None, 0.3, rows if zero else None)[::2]

    for found, wanted in zip(gradients(mine, matrices, weights), gradients(theirs, matrices, weights), strict=True):
        close(found, wanted, 1e-11)


def test_a_threshold_of_zero_is_no_threshold() -> None:
    Q, K, V, rows = problem(60, 60, 5, 4)
    streamed = inner_product_self_expression(Q, K, V, torch.tensor(0.0, dtype=torch.float64), 0.2, rows)
    linear = inner_product_self_expression(Q, K, V, None, 0.2, rows)
    torch.testing.assert_close(streamed.Zhat, linear.Zhat)
    torch.testing.assert_close(streamed.l2, linear.l2)
    C = 0.2 * reference.without_diagonal(Q @ K.T, rows)
    torch.testing.assert_close(streamed.l1, C.abs().sum(dim=1))


def test_without_a_threshold_it_compiles_and_differentiates_twice() -> None:
    torch._dynamo.reset()
    matrices = [x.requires_grad_() for x in problem(30, 30, 3, 2)[:3]]

    def function(*x: Tensor) -> Tensor:
        Zhat, _, l2 = inner_product_self_expression(*x)
        return Zhat.square().sum() + l2.sum()

    assert gradcheck(function, matrices) and gradgradcheck(function, matrices)
    run = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(*matrices), function(*matrices))


# ------------------------------------------------------------------------------------------------------------ memory


class LargestTensor(TorchDispatchMode):
    """The most elements in a tensor that any operation returned."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        returned = function(*args, **(kwargs or {}))
        for value in returned if isinstance(returned, (tuple, list)) else (returned,):
            if isinstance(value, Tensor):
                self.most = max(self.most, value.numel())
        return returned


@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize(("B", "N"), [(3000, 3000), (50, 4000), (4000, 50)])
def test_memory_is_linear(B: int, N: int, threshold: float | None) -> None:
    """No temporary comes near B·N numbers, in either pass."""
    d = 8
    Q, K, V, rows = (x.float() if x.is_floating_point() else x for x in problem(B, N, d, d))
    for x in (Q, K, V):
        x.requires_grad_()
    with LargestTensor() as watch:
        Zhat, _, l2 = inner_product_self_expression(
            Q, K, V, None if threshold is None else torch.tensor(threshold), 0.1, rows
        )
        (Zhat.sum() + l2.sum()).backward()
    assert watch.most <= 2 * (B + N) * d


@pytest.mark.parametrize("backward", [False, True])
def test_scratch_is_linear(backward: bool, backend: torch.device) -> None:
    native = _native.backend(torch.empty(0, device=backend))
    if native is None:
        return
    for B, N, dq, dv in ((10**6, 10**6, 64, 64), (10**6, 10, 64, 64), (10, 10**6, 64, 64), (256, 10**5, 1024, 500)):
        for dtype in _native.DTYPES.values():
            scratch = native.inner_product_self_expression_scratch(dtype, B, N, dq, dv, backward)
            assert scratch <= 4 * (B + N + 50_000) * (dq + dv)


# ---------------------------------------------------------------------------------------------- dtypes and precision


@pytest.mark.parametrize("threshold_dtype", ["own", torch.float32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_inputs(dtype: torch.dtype, threshold_dtype: torch.dtype | str, backend: torch.device) -> None:
    """Results and gradients in the inputs' type, norms in float32, all as from exact arithmetic on them."""
    *matrices, rows = (x.to(backend) for x in problem(20, 70, 16, 12, dtype=torch.float32))
    matrices = [x.to(dtype) for x in matrices]
    threshold = torch.tensor(0.5, device=backend).to(dtype if threshold_dtype == "own" else threshold_dtype)
    weights = [torch.randn(20, 12).to(backend, dtype), torch.randn(20).to(backend), torch.randn(20).to(backend)]
    found = gradients(lambda *x: inner_product_self_expression(*x, 0.1, rows), [*matrices, threshold], weights)
    wanted = gradients(
        lambda *x: reference.inner_product_self_expression(*x, 0.1, rows),
        [x.double() for x in (*matrices, threshold)],
        [x.double() for x in weights],
    )
    assert [x.dtype for x in found] == [dtype, torch.float32, torch.float32, *[dtype] * 3, threshold.dtype]
    step = torch.finfo(dtype).eps
    for mine, theirs in zip(found, wanted, strict=True):
        close(mine, theirs, step if mine.dtype == dtype else 1e-5)
    plain = inner_product_self_expression(*matrices, None, 0.1, rows)
    assert plain.Zhat.dtype == dtype and plain.l2.dtype == torch.float32


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_autocast_computes_in_float32(threshold: float | None) -> None:
    Q, K, V, rows = (x.float() if x.is_floating_point() else x for x in problem(9, 9, 5, 4))
    t = None if threshold is None else torch.tensor(threshold)
    wanted = inner_product_self_expression(Q.bfloat16().float(), K, V, t, 0.3, rows)
    with torch.autocast("cpu", torch.bfloat16):
        found = inner_product_self_expression(Q.bfloat16(), K, V, t, 0.3, rows)
    assert found.Zhat.dtype == torch.float32
    assert torch.equal(found.Zhat, wanted.Zhat) and torch.equal(found.l2, wanted.l2)


def test_tf32_is_taken_only_where_pytorch_may_take_it(backend: torch.device) -> None:
    """Numbers of 11 significant bits are exact in TF32; with more, the two settings differ on tensor cores alone."""
    *matrices, rows = (x.to(backend) for x in problem(40, 70, 20, 9, dtype=torch.float32))
    wanted = reference.inner_product_self_expression(
        *(x.double() for x in matrices), torch.tensor(0.3, dtype=torch.float64, device=backend), 0.1, rows
    )[0]
    errors = {}
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            found = inner_product_self_expression(*matrices, torch.tensor(0.3, device=backend), 0.1, rows).Zhat
            errors[precision] = ((found - wanted).norm() / wanted.norm()).item()
    finally:
        torch.set_float32_matmul_precision(before)
    assert errors["highest"] < 1e-6 and errors["high"] < 2e-3


def test_a_learned_threshold_finds_its_way() -> None:
    """Descent on the elastic net of the rows moves the threshold up, through its gradient alone."""
    Q, K, V, rows = problem(30, 30, 4, 4)
    threshold = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    for _ in range(20):
        _, l1, l2 = inner_product_self_expression(Q, K, V, threshold, 1.0, rows)
        (gradient,) = torch.autograd.grad((l1 + l2).mean(), threshold)
        assert gradient.shape == threshold.shape and gradient.item() < 0
        threshold = (threshold - 0.002 * gradient).detach().requires_grad_()
    assert threshold.item() > 0.1


def test_rows_outside_change_nothing_and_are_named() -> None:
    Q, K, V, _ = problem(3, 5, 2, 2)
    threshold = torch.tensor(0.1, dtype=torch.float64)
    for bad in (-1, 5):
        with pytest.raises(IndexError, match=r"rows must lie in \[0, N\)"):
            inner_product_self_expression(Q, K, V, threshold, 1.0, torch.tensor([0, bad, 1]))


def test_result_is_a_named_tuple() -> None:
    result = dsc_ext.inner_product_self_expression(torch.eye(3), torch.eye(3), torch.eye(3), torch.tensor(0.0))
    assert result._fields == ("Zhat", "l1", "l2") and not result.Zhat.any()
