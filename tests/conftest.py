"""Shared by all tests: which are slow, and where real data lie.

``pytest`` alone leaves out what is marked slow (``-m "not slow"`` among the options of pyproject.toml); ``pytest -m ""``
runs everything, in a CI or before a push. SLOW below is the one table of what is left out and what that loses; marks
on single cases of a parametrized test stand beside its cases.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SLOW = {  # the beginning of a node id -> what the fast tests cannot see without it
    "tests/simt/": "races, reads out of bounds, and a barrier whose loss nothing would notice; the emulator's own rules",
    "tests/packaging/test_install.py": "a build that fails from an sdist, in isolation or editable",
    "tests/packaging/test_benchmarks.py": "a benchmark that no longer runs, or that times wrong numbers",
    "tests/packaging/test_ptxas_budget.py::test_kernels": "a kernel that nvcc refuses, spills or outgrows its budget",
}

# Before anything loads a BLAS: workers that all use every core spend most of their time waiting for each other.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _workers > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))


def pytest_report_header(config: pytest.Config) -> str | None:
    return 'fast tests only; pytest -m "" runs all' if leaves_out_slow(config) else None


def leaves_out_slow(config: pytest.Config) -> bool:
    """Tell whether the mark expression is the one of pyproject.toml, so that no slow test need even be collected."""
    return bool(config.option.markexpr == "not slow")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, unread, the files that are slow altogether: they take long to import."""
    path = collection_path.relative_to(ROOT).as_posix()
    return True if leaves_out_slow(config) and path.startswith(tuple(SLOW)) else None


@pytest.hookimpl(tryfirst=True)  # before the mark expression is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = tuple(SLOW)
    for item in items:
        if item.nodeid.startswith(slow):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the public data sets, the one place where tests on them are skipped: they are not in the
    repository. Where there is such a folder, a file that is not in it fails its test.
    """
    folder = Path(os.environ.get("DSCLUST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets at {folder}: set DSCLUST_DATA to the folder that holds orl_32x32.mat")
    return folder
