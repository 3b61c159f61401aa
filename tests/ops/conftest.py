"""What the ops are tested on: backends (compiled for the CPU, the CUDA kernels emulated in three thread orders, plain
PyTorch, a GPU) and rows of the case table. Parameters are made here and not by decorators, because the whole has ten
thousand combinations and the fast run must not pay for collecting them.

    @pytest.mark.cases(wanted=lambda case: ..., fast=...)   a test with parameter ``case``: the rows it runs on
    @pytest.mark.backends(order="shuffled", fast=...)       a test with parameter ``backend``: one emulated order

``fast`` names what the fast run takes: of cases ``every`` or ``one`` (the default, the first of each op); of backends
the default is the CPU kernels, the emulator in one order, plain PyTorch, and a GPU where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from simt import build

from dsc_ext import _native
from ops.cases import CASES, Case

ORDERS = [name for name, _ in build.ORDERS]


def is_fast(config: pytest.Config) -> bool:
    """Whether slow tests are not asked for."""
    return config.option.markexpr.strip() == "not slow"


def chosen_cases(mark: pytest.Mark, fast: bool) -> list[Case]:
    wanted = mark.kwargs.get("wanted", lambda case: True)
    found = [case for case in CASES if wanted(case)]
    if fast and mark.kwargs.get("fast", "one") == "one":
        first = {case.op: case for case in reversed(found)}
        found = [case for case in found if case is first[case.op]]
    return found


def chosen_backends(mark: pytest.Mark | None, fast: bool) -> list[str]:
    options = {} if mark is None else mark.kwargs
    if fast:
        names = options.get("fast", ["cpu", "emulated", "fallback"])
        orders = [options.get("order", ORDERS[0])]
    else:
        names = ["cpu", "emulated", "fallback"]
        orders = [options["order"]] if "order" in options else ORDERS
    found = [
        backend for name in names for backend in ([f"{name}-{o}" for o in orders] if name == "emulated" else [name])
    ]
    return [*found, "cuda"] if torch.cuda.is_available() or not fast else found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    fast = is_fast(metafunc.config)
    if (mark := metafunc.definition.get_closest_marker("cases")) is not None:
        metafunc.parametrize("case", chosen_cases(mark, fast), ids=str)
    if "backend" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("backends")
        metafunc.parametrize("backend", chosen_backends(mark, fast), indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Makes one backend serve the ops, and yields the device to put tensors on."""
    name: str = request.param
    if name == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device on this machine")
        yield torch.device("cuda")
        return
    assert _native.load() is not None, "the extension is not built; `python -m dsc_ext` says why"
    if name == "fallback":
        monkeypatch.delitem(_native.backends, "cpu")
    elif name.startswith("emulated"):
        module = build.emulator()
        order = name.partition("-")[2]
        module.set_order(order, dict(build.ORDERS)[order])
        monkeypatch.setitem(_native.backends, "cpu", module.cuda)
    yield torch.device("cpu")


@pytest.fixture
def cuda() -> ModuleType:
    """The CUDA launchers, whose host functions need no GPU."""
    native = _native.load()
    if hasattr(native, "cuda"):
        return native.cuda  # type: ignore[no-any-return,union-attr]
    return build.emulator().cuda  # type: ignore[no-any-return]
