"""Shared by all tests: where real data lie, and the backends an op can run on."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before anything loads a BLAS: workers that all use every core spend most of their time waiting for each other.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _workers > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))


def helper_package(name: str) -> None:
    """Makes tests/<name> importable as <name>. With tests/ itself on sys.path, tests/python would stand in for it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / name / "__init__.py")
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


helper_package("simt")
helper_package("ops")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the public data sets, the one place where tests on them are skipped: they are not in the
    repository. Where there is such a folder, a file that is not in it fails its test.
    """
    folder = Path(os.environ.get("DSCLUST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets at {folder}: set DSCLUST_DATA to the folder that holds orl_32x32.mat")
    return folder
