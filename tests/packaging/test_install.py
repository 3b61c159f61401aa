"""The package installs every way people install it, from a copy of the tree into a fresh virtual environment.

Slow: each compiles. torch and the other dependencies are those of the running environment; what is tested is our build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ("csrc", "dsc_ext", "python", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
SOURCES += ("CONTRIBUTING.md", "constraints.txt", ".clang-format", "tests", "benchmarks", ".ci")
BUILT = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
BUILD_REQUIREMENTS = ["setuptools>=77", "pybind11>=2.13", "ninja", "cmake>=3.25"]
CHECK = """
import dsc_ext, torch
from dsc_ext import _native
native = _native.load()
assert native is not None, _native.load_error()
assert hasattr(native, "cuda") is {cuda}, dir(native)
C = torch.randn(5, 5)
assert torch.allclose(dsc_ext.self_expression(C, torch.eye(5), torch.tensor([2]), zero_diagonal=False), C[2])
import dsclust
assert dsclust.__version__ == dsc_ext.__version__ != "0+unknown"
"""

pytestmark = pytest.mark.slow


def run(command: list[str | Path], cwd: Path, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DSCLUST_CUDA", "DSCLUST_CUDA_ARCHS")}
    done = subprocess.run(command, cwd=cwd, env={**clean, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def copy_tree(copy: Path) -> Path:
    """Copy what a checkout holds, without anything built."""
    copy.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=BUILT)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_tree(tmp_path / "tree")


def make_environment(folder: Path) -> Path:
    """Make a virtual environment with what builds the package, that sees the running environment's torch."""
    folder.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", folder], folder)
    python = folder / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", *BUILD_REQUIREMENTS], folder)
    purelib = run([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], folder).strip()
    site = next(Path(entry) for entry in sys.path if (Path(entry) / "torch").is_dir())
    Path(purelib, "dependencies.pth").write_text(f"{site}\n")
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def python(environment: Path) -> Path:
    """Its interpreter, with dsc-ext not installed in it."""
    interpreter = environment / "bin" / "python"
    subprocess.run([interpreter, "-m", "pip", "uninstall", "--quiet", "--yes", "dsc-ext"], cwd=environment)
    return interpreter


def install(python: Path, cwd: Path, *options: str, **environment: str) -> None:
    run([python, "-m", "pip", "install", "--no-deps", "--force-reinstall", *options], cwd, **environment)


def check(python: Path, elsewhere: Path, cuda: bool) -> None:
    run([python, "-W", "error::RuntimeWarning", "-c", CHECK.format(cuda=cuda)], elsewhere)


def test_isolated_and_then_again(python: Path, tree: Path, tmp_path: Path) -> None:
    """Build isolation has no torch, and deletes its cmake and ninja; the second build meets the first one's
    directory.
    """
    for _ in range(2):
        install(python, tree, ".", DSCLUST_CUDA="0")
        check(python, tmp_path, cuda=False)


def test_editable_without_isolation(python: Path, tree: Path, tmp_path: Path) -> None:
    """In an environment that is not activated: its cmake and ninja are not on PATH."""
    install(python, tree, "--no-build-isolation", "-e", ".", DSCLUST_CUDA="0")
    check(python, tmp_path, cuda=False)
    (tree / "dsc_ext" / "marker.py").write_text("here = True\n")
    run([python, "-c", "import dsc_ext.marker"], tmp_path)


def test_in_folders_of_any_name(tmp_path: Path) -> None:
    """Whatever CMake, Ninja, the shell or nvcc take for their own; pip's scripts in the environment bear less."""
    tree = copy_tree(tmp_path / "a [b] (c) é & 'd' \"e\" $HOME; #1 `f` \\x $<y>, {z}*?!")
    python = make_environment(tmp_path / "a (b) é & 'c' #1") / "bin" / "python"
    install(python, tree, "--no-build-isolation", ".", DSCLUST_CUDA="0")
    check(python, tmp_path, cuda=False)


def test_sdist_is_complete(python: Path, tree: Path, tmp_path: Path) -> None:
    """Built from the sdist alone, with the CUDA kernels if there is an nvcc, and importable without a driver."""
    out = tmp_path / "dist"
    program = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run([python, "-c", program, out], tree)
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as contents:
        names = {name.partition("/")[2] for name in contents.getnames()}
    assert {"csrc/CMakeLists.txt", "csrc/cuda/self_expression.cu", "constraints.txt", "tests/ops/test_bank.py"} <= names
    cuda = bool(shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc"))
    settings = {"DSCLUST_CUDA": "1", "DSCLUST_CUDA_ARCHS": "80-real"} if cuda else {"DSCLUST_CUDA": "0"}
    install(python, tmp_path, "--no-build-isolation", str(archive), **settings)
    check(python, tmp_path, cuda=cuda)
