"""The backends of an op: compiled for the CPU, the CUDA kernels emulated in three thread orders, a GPU, plain
PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from simt import build

from dsc_ext import _native
from ops import cases

BACKENDS = ["cpu", "emulated-forward", "emulated-reversed", "emulated-shuffled", "fallback", "cuda"]

# Without the slow tests, each op runs on each backend, the emulated one in one order. Lost: a result that depends on
# the order of threads, which is a race.
FAST = ["cpu", "emulated-forward", "fallback", *(["cuda"] if torch.cuda.is_available() else [])]
FEWER = {  # still fewer for these tests -> what is lost
    "test_reads_any_layout": ["cpu"],  # a stride that a CUDA kernel mistakes
    "test_gradients": ["cpu"],  # a wrong backward of the CUDA kernels, whose launchers other cases run
    "test_gradients_through_every_result": ["cpu"],  # the same
    "test_gradcheck_of_all_results_together": ["cpu"],  # the same
}
# What repeats is cut from the whole as well: a hundred calls each. Lost: a gradient that depends on the order of
# threads where no value does; values are compared in all three, and tests/simt/test_kernels.py takes gradients under
# the race checker.
_ONE_ORDER = [name for name in BACKENDS if name not in ("emulated-reversed", "emulated-shuffled")]
WHOLE = {
    "test_gradients": _ONE_ORDER,
    "test_gradients_through_every_result": _ONE_ORDER,
    "test_gradcheck_of_all_results_together": _ONE_ORDER,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        fast, name = metafunc.config.option.markexpr == "not slow", metafunc.function.__name__
        backends = FEWER.get(name, FAST) if fast else WHOLE.get(name, BACKENDS)
        metafunc.parametrize("backend", backends, indirect=True)


@pytest.hookimpl(tryfirst=True)  # before the mark expression is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow the fallback, but for each op's first case: it is the reference, which it would be compared with."""
    first = {case.op: case for case in reversed(cases.CASES)}
    for item in items:
        chosen = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if chosen.get("backend") == "fallback" and "case" in chosen and chosen["case"] is not first[chosen["case"].op]:
            item.add_marker(pytest.mark.slow)


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
