"""dsc_ext/_C.pyi says what the compiled module has."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from dsc_ext import _native

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKED_IN = ROOT / "dsc_ext" / "_C.pyi"
OF_CUDA = {"cuda", "cuda_archs", "cuda_version", "cuda_device_report"}


@pytest.fixture(scope="module")
def stubs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dsc_ext_stubs", ROOT / "csrc" / "stubs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stub_is_that_of_the_headers(stubs: ModuleType) -> None:
    assert CHECKED_IN.read_text() == stubs.stub(), "run `python csrc/stubs.py`"


def test_the_stub_is_that_of_the_module() -> None:
    """Names, and how many arguments each launcher takes, as pybind11 writes it into the docstring."""
    native = _native.load()
    assert native is not None
    tree = ast.parse(CHECKED_IN.read_text())
    (launchers,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    names = {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert names - (set() if hasattr(native, "cuda") else OF_CUDA) == public(native)
    taken = {node.name: len(node.args.posonlyargs) - 1 for node in launchers.body if isinstance(node, ast.FunctionDef)}
    for backend in ("cpu", "cuda"):
        if hasattr(native, backend):
            module = getattr(native, backend)
            assert {name: getattr(module, name).__doc__.count("arg") for name in public(module)} == taken


def test_a_launcher_that_is_declared_but_not_bound_is_named(
    stubs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "launchers.h").write_text("DSC_LAUNCHER_NAME(one)\n")
    (tmp_path / "ops.h").write_text(
        "DSC_LAUNCHER(bool one(DType dtype))\n// two:\nDSC_LAUNCHER(Status two(void* out))\n"
    )
    monkeypatch.setattr(stubs, "CSRC", tmp_path)
    with pytest.raises(ValueError, match="two"):
        stubs.stub()


def public(module: ModuleType) -> set[str]:
    return {name for name in dir(module) if not name.startswith("__")}
