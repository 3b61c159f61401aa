"""Shared by all tests: which of them are slow and why, and where real data lie.

``pytest`` runs what is not slow: within a minute on two cores every op on every backend at least once and a real fit by
every method. ``pytest -m ""`` runs the whole: before a push, and in CI. ``-n0`` runs in this process, for a debugger.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before anything loads a BLAS: workers that all use every core spend most of their time waiting for each other.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _workers > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))

# A pattern searched for in "path::name[parameters]" (the path from tests/), and why what it finds is left out of the
# fast run. tests/ops/conftest.py has its own rule, by case and backend.
SLOW = {
    r"packaging/test_doctests\.py::test_examples\[dsclust": "the examples fit",
    r"packaging/test_install\.py": "builds the package several times, in environments of their own",
    r"packaging/test_ptxas_budget\.py::test_kernels_keep": "nvcc compiles every kernel",
    r"packaging/test_benchmarks\.py": "runs the benchmarks",
    r"packaging/test_readme\.py::test_python_examples_run": "fits by processes of their own",
    r"ops/test_ops\.py::test_pytorch_decides_about_tf32_by": "a process of its own",
    r"ops/test_ops\.py::test_equals_the_reference\[.*f64": "the same code as in float32, which the fast run has",
    r"ops/test_info_nce\.py::test_power_of_two": "millions of numbers, emulated",
    r"ops/test_inner_product_self_expression\.py::test_without_a_threshold_it_compiles": "compiles for 4 s",
    r"simt/test_kernels\.py": "builds under sanitizers, and runs without each barrier",
    r"simt/.*(sanitize)": "builds under sanitizers",
    r"python/test_estimators\.py::test_scikit_learn_checks\[(?!RidgeSubspace)": "one estimator stands for the others",
    r"python/test_estimators\.py::test_(new_samples|images_by)": "fits; test_every_method.py has one by each method",
    r"python/test_cli\.py::test_(data_without_labels|every_method)": "fits; another command of the same file stays",
    r"python/test_(sscn|energy)\.py::test_digits_beat": "trains until it beats chance",
    r"python/test_senet\.py::test_(memory_of_a_step|a_union_of_subspaces)": "trains long, or in a process of its own",
    r"python/test_methods\.py::test_(the_seconds|a_new_method)": "fits on every face",
    r"python/test_(auto\.py::test_labels_are_never_read|clbdsc\.py::test_on_the_command_line)": "fits twice",
    r"ops/test_self_expression_step\.py::test_(compiled_models|proximal_steps)": "compiles, or steps to convergence",
    r"packaging/test_diagnosis\.py::test_importing": "a process of its own; test_cli.py has the same of the command",
    r"python/test_experiments\.py": "runs experiments",
    r"python/.*(signal|interrupted|ctrl_c)": "interrupts a training process",
}


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = f"{item.path.relative_to(ROOT / 'tests').as_posix()}::{item.name}"
        if any(re.search(pattern, place) for pattern in SLOW):
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
