"""The package installs every way people install it. Each test builds from a copy of the tree into a fresh environment.

Slow (each compiles); run by CI. The compiler cache of CMake is shared on purpose in one of them: a second `pip install
.` in the same tree must not trip over what the first left behind.
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
TRACKED = (
    "csrc",
    "dsc_ext",
    "python",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "MANIFEST.in",
    "constraints.txt",
)
CHECK = """
import dsc_ext, torch
from dsc_ext import _native
native = _native.load()
assert native is not None, _native.load_error()
assert hasattr(native, "cuda") is {cuda}, dir(native)
C = torch.randn(5, 5)
assert torch.allclose(dsc_ext.self_expression(C, torch.eye(5), torch.tensor([2]), zero_diagonal=False), C[2])
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a checkout holds, without anything built."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in TRACKED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, copy / name)
    return copy


@pytest.fixture
def python(tmp_path: Path) -> str:
    """A fresh virtual environment that sees the installed torch, but not an installed dsc-ext (it is installed
    anew).
    """
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    interpreter = environment / "bin" / "python"
    purelib = subprocess.run(
        [interpreter, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # Dependencies come from the running environment: what is tested is our build, not the download of torch.
    site = next(Path(entry) for entry in sys.path if (Path(entry) / "torch").is_dir())
    Path(purelib, "dependencies.pth").write_text(f"{site}\n")
    return str(interpreter)


def run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DSC_CUDA", "DSC_CUDA_ARCHS")}
    done = subprocess.run(command, cwd=cwd, env={**clean, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done


def install(python: str, tree: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run([python, "-m", "pip", "install", "--no-deps", "-v", *options], tree, **environment)


def check(python: str, elsewhere: Path, cuda: bool) -> None:
    run([python, "-W", "error::RuntimeWarning", "-c", CHECK.format(cuda=cuda)], elsewhere)


def test_isolated_install_twice_without_cuda(python: str, tree: Path, tmp_path: Path) -> None:
    """Build isolation has no torch: the build must not want it. The second install meets the first one's build
    directory.
    """
    for _ in range(2):
        install(python, tree, ".", DSC_CUDA="0")
        check(python, tmp_path, cuda=False)


def test_no_nvcc_warns_once_and_says_where_it_looked(python: str, tree: Path, tmp_path: Path) -> None:
    """A PATH with a compiler but without nvcc, and a CUDA_HOME that has none."""
    if Path("/usr/local/cuda/bin/nvcc").exists():
        pytest.skip("nvcc is at /usr/local/cuda, where it is always found")
    done = install(python, tree, "--no-build-isolation", ".", CUDA_HOME="/nowhere")
    assert (done.stdout + done.stderr).count("WARNING: dsc-ext: CPU build") == 1
    check(python, tmp_path, cuda=False)


def test_editable_without_isolation(python: str, tree: Path, tmp_path: Path) -> None:
    install(python, tree, "--no-build-isolation", "-e", ".", DSC_CUDA="0")
    check(python, tmp_path, cuda=False)
    (tree / "dsc_ext" / "marker.py").write_text("here = True\n")
    run([python, "-c", "import dsc_ext.marker"], tmp_path)


def test_sdist_is_complete(python: str, tree: Path, tmp_path: Path) -> None:
    """Built from the sdist alone, with CUDA kernels if there is an nvcc."""
    out = tmp_path / "dist"
    run(
        [
            python,
            "-c",
            "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))",
            str(out),
        ],
        tree,
    )
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as contents:
        names = {name.partition("/")[2] for name in contents.getnames()}
    assert {"csrc/CMakeLists.txt", "csrc/cuda/self_expression.cu", "constraints.txt"} <= names
    cuda = find_nvcc() is not None
    install(
        python,
        tmp_path,
        "--no-build-isolation",
        str(archive),
        **({"DSC_CUDA_ARCHS": "80-real"} if cuda else {"DSC_CUDA": "0"}),
    )
    check(python, tmp_path, cuda=cuda)


def find_nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@pytest.mark.parametrize("value", ["yes", "2"])
def test_unknown_choice_is_refused(python: str, tree: Path, value: str) -> None:
    done = subprocess.run(
        [python, "setup.py", "build_ext"],
        cwd=tree,
        env={**os.environ, "DSC_CUDA": value},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and f"DSC_CUDA must be auto, 1 or 0, got '{value}'" in done.stderr
