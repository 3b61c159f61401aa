"""What holds for every op: it equals its reference on every backend, and it is a first-class PyTorch op."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from _pytest.mark import ParameterSet
from simt import build
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import dsc_ext
from dsc_ext import _native
from ops import cases
from ops.cases import CASES, Case

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def only_the_first_fast(chosen: list[Case]) -> list[ParameterSet]:
    """Mark all but the first case of each op as slow."""
    first = {case.op: case for case in reversed(chosen)}
    return [
        pytest.param(case, id=str(case), marks=[] if first[case.op] is case else pytest.mark.slow) for case in chosen
    ]


every_case = pytest.mark.parametrize("case", CASES, ids=str)
differentiable_case = pytest.mark.parametrize("case", [c for c in CASES if c.differentiable], ids=str)


def assert_same(case: Case, found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    if case.op.startswith("symmetrize_"):
        values, crow, column = found
        n = crow.shape[0] - 1
        found = (torch.sparse_csr_tensor(crow, column, values, (n, n), check_invariants=True).to_dense(),)
    for mine, theirs in zip(found, wanted, strict=True):
        tolerance = TOLERANCE.get(mine.dtype, 0)
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_equals_the_reference(case: Case, dtype: torch.dtype, backend: torch.device) -> None:
    arguments = case.arguments(dtype, backend)
    wanted = cases.expected(case, cases.clone(arguments))
    assert_same(case, cases.call(case, arguments), wanted)


@pytest.mark.parametrize("case", [c for c in CASES if c.op in cases.TF32], ids=str)
def test_tf32_where_it_is_allowed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_native.backends, "cpu", build.emulator().cuda)
    monkeypatch.setattr(_native, "tf32", lambda like: like.dtype == torch.float32)
    arguments = case.arguments()
    wanted = cases.expected(case, cases.clone(arguments))
    for mine, theirs in zip(cases.call(case, arguments), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=4e-3, atol=2e-2)


def test_pytorch_decides_about_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda, double = (
        SimpleNamespace(is_cuda=is_cuda, dtype=dtype)
        for is_cuda, dtype in ((False, torch.float32), (True, torch.float32), (True, torch.float64))
    )
    for answer in ("highest", "high", "medium"):
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda answer=answer: answer)
        assert _native.tf32(cuda) == (answer != "highest")
        assert not _native.tf32(cpu) and not _native.tf32(double)


def test_pytorch_decides_about_tf32_by_its_newest_switch_too() -> None:
    """In a process of its own: PyTorch does not forget that the switch was used."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this PyTorch has no such switch")
    code = """
import torch
from types import SimpleNamespace
from dsc_ext import _native
for precision in ("tf32", "ieee"):
    torch.backends.cuda.matmul.fp32_precision = precision
    assert _native.tf32(SimpleNamespace(is_cuda=True, dtype=torch.float32)) == (precision == "tf32")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def strided(value: object) -> object:
    """The same numbers in a tensor whose rows are neither adjacent nor, every second time, 16-byte aligned."""
    if not isinstance(value, Tensor) or value.dim() != 2:
        return value
    n, m = value.shape
    untouched = float("nan") if value.is_floating_point() else 2**62
    wide = torch.full((n, m + 3), untouched, dtype=value.dtype, device=value.device)
    wide[:, 1 : m + 1] = value
    return wide[:, 1 : m + 1]


def transposed(value: object) -> object:
    """The same numbers with columns adjacent instead of rows."""
    return value.T.contiguous().T if isinstance(value, Tensor) and value.dim() == 2 else value


# Without the slow: columns adjacent instead of rows.
@every_case
@pytest.mark.parametrize("layout", [strided, pytest.param(transposed, marks=pytest.mark.slow)])
def test_reads_any_layout(case: Case, layout: object, backend: torch.device) -> None:
    arguments = case.arguments(torch.float32, backend)
    wanted = cases.expected(case, cases.clone(arguments))
    mutated = cases.MUTATED.get(case.op, ())
    keeps = (
        case.op in ("row_adam_", "self_expression_step_", "sparse_self_expression_step_") or layout is transposed
    )  # what is written in place has to be adjacent, and says so below
    laid_out = tuple(a if i in mutated and keeps else layout(a) for i, a in enumerate(arguments))  # type: ignore[operator]
    assert_same(case, cases.call(case, laid_out), wanted)


@every_case
def test_same_bits_every_time(case: Case, backend: torch.device) -> None:
    first = cases.call(case, case.arguments(torch.float32, backend))
    for _ in range(9 if backend.type == "cuda" else 2):
        again = cases.call(case, case.arguments(torch.float32, backend))
        for one, other in zip(first, again, strict=True):
            assert torch.equal(one.nan_to_num(nan=7.0), other.nan_to_num(nan=7.0))


@every_case
def test_same_bits_with_any_number_of_threads(case: Case) -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(cases.call(case, case.arguments()))
    finally:
        torch.set_num_threads(threads)
    if str(case).startswith("self_expression-full-batch"):
        return  # one call of the BLAS, whose summation order is its own
    for one, *others in zip(*found, strict=True):
        assert all(torch.equal(one.nan_to_num(nan=7.0), other.nan_to_num(nan=7.0)) for other in others)


# Without the slow: a schema or a fake kernel that is wrong for an option which the op's first case leaves alone.
# opcheck holds NaN unequal to NaN.
@pytest.mark.parametrize("case", only_the_first_fast([c for c in CASES if "not-finite" not in c.label]))
def test_opcheck(case: Case) -> None:
    arguments = case.arguments()
    for requires_grad in (False, True):
        for i in case.differentiable if requires_grad else ():
            arguments[i].requires_grad_()
        done = torch.library.opcheck(getattr(torch.ops.dsc_ext, case.op).default, arguments)
        assert set(done.values()) == {"SUCCESS"} and len(done) == 4


# Without the slow: a gradient that is wrong for an option which the op's first case leaves alone.
@pytest.mark.parametrize("case", only_the_first_fast([c for c in CASES if c.differentiable]))
def test_gradients(case: Case, backend: torch.device) -> None:
    arguments = case.arguments(torch.float64, backend)
    inputs = tuple(arguments[i].requires_grad_() for i in case.differentiable)

    def function(*inputs: Tensor) -> Tensor:
        filled = list(arguments)
        for i, value in zip(case.differentiable, inputs, strict=True):
            filled[i] = value
        return cases.call(case, tuple(filled))[0]

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@differentiable_case
def test_only_wanted_gradients_are_computed(case: Case) -> None:
    for wanted in case.differentiable:
        arguments = case.arguments()
        arguments[wanted].requires_grad_()
        cases.call(case, arguments)[0].sum().backward()
        assert arguments[wanted].grad is not None


COMPILED = {"splice", "batch", "full-batch", "some", "mean", "mix-normalize", "wrap", "rows"}


@pytest.mark.parametrize("case", [c for c in CASES if c.label in COMPILED], ids=str)
def test_compiles_into_one_graph(case: Case) -> None:
    torch._dynamo.reset()
    arguments = case.arguments()
    for i in case.differentiable:
        arguments[i].requires_grad_()
    eager, compiled = cases.clone(arguments), cases.clone(arguments)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        run = torch.compile(lambda *a: cases.call(case, a)[0], fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(run(*compiled), cases.call(case, eager)[0])


# Without the slow: as for opcheck.
@pytest.mark.parametrize("case", only_the_first_fast(CASES))
def test_fake_tensors_agree_on_shape_and_stride(case: Case) -> None:
    arguments = case.arguments()
    real = cases.call(case, cases.clone(arguments))
    if case.op.startswith("symmetrize_"):
        return  # the size of W depends on the data; opcheck covers it
    with torch._subclasses.FakeTensorMode() as mode:
        fake = cases.call(case, tuple(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments))
    for one, other in zip(real, fake, strict=True):
        assert one.shape == other.shape and one.stride() == other.stride() and one.dtype == other.dtype


AUTOCAST = re.compile(r"Under autocast\s+(everything\s+is\s+computed\s+in\s+float32|nothing\s+is\s+cast)")
SPOKEN_FOR_BY = {  # the public function, where it has another name
    "on_support_adjoint": "ridge_on_support",
    "sparse_self_expression_grad": "sparse_self_expression",
    "sparse_self_expression_transposed": "sparse_self_expression",
    "symmetrize_dense": "symmetrize_affinity",
}


@pytest.mark.parametrize(
    "op", sorted({case.op for case in CASES if hasattr(dsc_ext, SPOKEN_FOR_BY.get(case.op, case.op))})
)
def test_under_autocast_an_op_does_what_its_docstring_says(op: str) -> None:
    """With 16-bit inputs: as if they had come in float32, or as without autocast, its errors included."""
    said = AUTOCAST.search(getattr(dsc_ext, SPOKEN_FOR_BY.get(op, op)).__doc__)
    assert said is not None, f"the docstring of {op} does not say what autocast does to it"
    case = next(case for case in CASES if case.op == op)

    def outcome(dtype: torch.dtype, autocast: bool) -> tuple[Tensor, ...] | str:
        arguments = tuple(
            a.bfloat16().to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in case.arguments()
        )
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return cases.call(case, arguments)
        except (TypeError, ValueError) as error:
            return repr(error)

    found = outcome(torch.bfloat16, True)
    wanted = outcome(torch.bfloat16 if said[1].startswith("nothing") else torch.float32, False)
    assert isinstance(found, str) == isinstance(wanted, str), (found, wanted)
    if isinstance(found, str):
        assert found == wanted
    else:
        for mine, its in zip(found, wanted, strict=True):
            assert mine.dtype == its.dtype and torch.equal(mine, its)


@pytest.mark.parametrize("op", sorted(cases.MUTATED))
def test_in_place_ops_bump_the_version(op: str, backend: torch.device) -> None:
    """Autograd notices that a saved bank was overwritten only if the version counter moves."""
    case = next(c for c in CASES if c.op == op)
    arguments = case.arguments(torch.float32, backend)
    before = arguments[0]._version
    cases.call(case, arguments)
    assert arguments[0]._version > before


def test_every_launcher_is_bound_for_every_backend() -> None:
    from simt import build

    native = _native.load()
    assert native is not None
    launchers = {name for name in dir(native.cpu) if not name.startswith("_")}
    if hasattr(native, "cuda"):
        assert launchers == {name for name in dir(native.cuda) if not name.startswith("_")}
    assert launchers == {name for name in dir(build.emulator().cuda) if not name.startswith("_")}
