"""`python -m dsc_ext` and what the package does when its extension cannot be loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dsc_ext
from dsc_ext import __main__ as diagnosis
from dsc_ext import _native

WITHOUT_EXTENSION = """
import importlib, sys, warnings
real = importlib.import_module
def refuse(name, *rest):
    if name == "dsc_ext._C":
        raise ImportError("libfoo.so.1: cannot open shared object file")
    return real(name, *rest)
importlib.import_module = refuse
import torch, dsc_ext
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        found = dsc_ext.self_expression(torch.ones(3, 3), torch.eye(3), torch.tensor([1]))
assert found.tolist() == [[1.0, 0.0, 1.0]], found
(warning,) = [w for w in caught if w.category is RuntimeWarning]
assert "libfoo.so.1" in str(warning.message) and "python -m dsc_ext" in str(warning.message)
from dsc_ext.__main__ import main
sys.exit(main())
"""


def test_every_op_is_listed_with_where_it_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "dsc_ext"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for op in torch._C._dispatch_get_all_op_names():
        name = op.removeprefix("dsc_ext::")
        if op.startswith("dsc_ext::") and hasattr(dsc_ext, name):  # the others are halves of these
            assert name in diagnosis.OPS
    assert all(op in done.stdout for op in diagnosis.OPS)


def test_a_broken_extension_is_diagnosed_and_the_reference_serves() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTENSION], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # the diagnosis reports failure
    assert "not loaded" in done.stdout and "libfoo.so.1" in done.stdout


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return a checkout that was never compiled, and an installed package whose extension is only a name."""
    checkout, site = tmp_path / "checkout", tmp_path / "site"
    for folder in (checkout, site):
        uncompiled = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(Path(dsc_ext.__file__).parent, folder / "dsc_ext", ignore=uncompiled)
    (site / "dsc_ext" / f"_C{EXTENSION_SUFFIXES[0]}").write_text("")
    return checkout, site


def diagnose(cwd: Path, *search: Path) -> subprocess.CompletedProcess[str]:
    """Run the diagnosis with these on the search path; without site, whose finders of editable installs have a _C."""
    packages = Path(torch.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*search, packages]))}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-S", "-m", "dsc_ext"]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_a_checkout_that_hides_the_installed_package_is_named(folders: tuple[Path, Path]) -> None:
    """To install once more would not help; the warning and the diagnosis say what does, and the same."""
    checkout, site = folders
    done = diagnose(checkout, site)
    hides = f"{checkout}/dsc_ext, which was not compiled for this Python, hides the installed package {site}/dsc_ext. "
    assert done.returncode == 1, done.stderr
    for said in (done.stdout, done.stderr):
        assert f"{hides}Change to another folder, or start Python with -" in said, said
        assert f"or compile this one: `pip install -e .` in {checkout}." in said and "einstall" not in said
    assert "falls back to plain PyTorch" in done.stderr


def test_a_checkout_on_the_search_path_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, site = folders
    for cwd in (tmp_path, checkout):  # from within it is the search path all the same that must change
        assert f"Take {checkout} off the search path" in diagnose(cwd, checkout, site).stdout


def test_an_installed_package_that_does_not_load_hides_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, site = folders
    done = diagnose(tmp_path, site, checkout)
    assert "The extension is not usable" in done.stdout and "Reinstall from source" in done.stdout
    assert "hides" not in done.stdout + done.stderr and "cannot be loaded" in done.stderr


def test_nothing_installed_anywhere_hides_nothing(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, _ = folders
    monkeypatch.setattr(_native, "__file__", str(checkout / "dsc_ext" / "_native.py"))
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    monkeypatch.setattr(sys, "path", [str(checkout)])
    assert _native.hidden_package() is None


def test_an_editable_install_elsewhere_is_found(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a finder of its own instead of a folder on the search path."""
    checkout, site = folders

    class Editable:
        @staticmethod
        def find_spec(name: str, path: object = None) -> ModuleSpec | None:
            return PathFinder.find_spec(name, [str(site)])

    monkeypatch.setattr(_native, "__file__", str(checkout / "dsc_ext" / "_native.py"))
    monkeypatch.setattr(sys, "meta_path", [PathFinder, Editable])
    monkeypatch.setattr(sys, "path", [str(checkout)])
    assert f"hides the installed package {site}/dsc_ext" in (_native.hidden_package() or "")


def test_cuda_kernels_import_without_a_driver() -> None:
    native = _native.load()
    if not hasattr(native, "cuda"):
        pytest.skip("this is a CPU build: no nvcc was found when it was installed")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "none: " in native.cuda_device_report()
    with pytest.raises(
        RuntimeError, match=r"threshold_coefficients: .*\(CUDA error \d+; `python -m dsc_ext` diagnoses\)"
    ):
        native.cuda.threshold_coefficients(0, 0, 0, 1, 1, 1, 0.5, 0, 0)


def test_importing_does_not_import_the_compiler() -> None:
    """It takes longer than all else together."""
    code = "import sys, dsc_ext; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_version_is_the_distributions() -> None:
    assert dsc_ext.__version__ != "0+unknown"


def test_a_cpu_build_says_why_it_is_one() -> None:
    looked = SimpleNamespace(nvcc_searched="CUDACXX (not set), PATH", openmp=True)
    assert "no nvcc was found (looked at: CUDACXX (not set), PATH)" in diagnosis.advice(looked)[0]
    assert "switched off (DSCLUST_CUDA=0)" in diagnosis.advice(SimpleNamespace(nvcc_searched="", openmp=True))[0]
