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

BACKENDS = ["cpu", "emulated-forward", "emulated-reversed", "emulated-shuffled", "fallback", "cuda"]


@pytest.fixture(params=BACKENDS)
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
