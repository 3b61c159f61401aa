"""Shared by all tests: which are slow, and where real data lie.

``pytest`` alone leaves out what is marked slow (``-m "not slow"`` among pyproject.toml's options); ``pytest -m ""``
runs everything, in a CI or before a push. SLOW below is the one table of what is left out and what that loses; marks
on single cases of a parametrized test stand beside its cases.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SLOW = {  # how a node id begins, a regular expression -> what the fast tests cannot see without it
    r"tests/simt/": "races, reads out of bounds, a barrier whose loss nothing would notice; the emulator's own rules",
    r"tests/packaging/test_install.py": "a build that fails from an sdist, in isolation or editable",
    r"tests/packaging/test_benchmarks.py": "a benchmark that no longer runs, or that times wrong numbers",
    r"tests/packaging/test_ptxas_budget.py::test_kernels": "a kernel that nvcc refuses, spills or outgrows its budget",
    r"tests/packaging/test_readme.py::test_python_examples_run": "an example of the README that fails",
    r"tests/packaging/test_doctests.py::test_examples\[dsclust": "an example of an estimator, a fit each, that fails",
    r"tests/packaging/test_diagnosis.py::test_(a|an|importing)_": "a broken or hidden extension; what an import loads",
    # Of the ops; tests/ops/conftest.py and test_ops.py leave out backends and cases besides.
    r"tests/ops/test_ops.py::test_equals_the_reference\[[a-z-]+-f64": "a forward that is right in float32 alone",
    r"tests/ops/test_ops.py::test_same_bits_every_time": "memory read before it is written, by a CUDA kernel: else the "
    "emulator repeats itself, and CPU kernels are compared with themselves on other numbers of threads",
    r"tests/ops/test_ops.py::test_pytorch_decides_about_tf32_by_its_newest": "PyTorch's newest switch, overlooked",
    r"tests/ops/test_ops.py::test_compiles": "what torch.compile cannot trace though opcheck can, by AOTAutograd",
    r"tests/ops/test_self_expression_step.py::test_(compiled_models|proximal_steps)": "the same, and where steps end",
    r"tests/ops/test_inner_product_self_expression.py::test_(gradients_are_the_same|without_a_threshold_it_c)": "a "
    "gradient that depends on the number of threads; second derivatives, compiled",
    r"tests/ops/test_info_nce.py::test_power_of_two": "an instruction set whose exp2 is further off than two ulp",
    # Fits: test_every_method has one by each method and the automatic one, test_trainer interrupts and resumes.
    r"tests/python/test_experiments.py": "an experiment whose command no longer gives its table",
    r"tests/python/test_estimators.py::test_scikit_learn_checks\[(?!Ridge)": "a rule of scikit-learn that an estimator "
    "breaks by what is its own: Ridge's checks are those of what all inherit",
    r"tests/python/test_estimators.py::test_(new_samples|images_by_dim|a_union_of_sub)": "an estimator whose model is "
    "not the command line's; images given in three forms; a BDSC that finds no subspaces",
    r"tests/python/test_estimators.py::test_an_integer_random_state.*\[25": "a mini-batch that does not repeat",
    r"tests/python/test_cli.py::test_(every_method|with_no_other|data_without)": "a method that the command or predict "
    "refuses, a default that is below par, a column that needs labels: test_fit_writes_everything has the rest",
    r"tests/python/test_methods.py::test_(the_seconds|a_new_method)": "a method of one's own, lost on one of the faces",
    r"tests/python/test_cli.py::test_a_real_signal": "a signal that a handler called by hand would not show",
    r"tests/python/test_cli.py::test_interrupted_run_resumes": "an option lost between two runs",
    r"tests/python/test_(features|clbdsc).py::test_on_the_command_line": "an option of one method, lost on its way",
    r"tests/python/test_features.py::test_scattering_of_handwriting": "scattering that is stable but of no use",
    r"tests/python/test_backbones.py::test_a_tuned_network_keeps_no": "memory and gradient of a tuned network",
    r"tests/python/test_auto.py::test_labels_are_never_read": "a choice that looks at labels",
    r"tests/python/test_baselines.py::test_figures_on_published_sets": "baselines below what is published",
    r"tests/python/test_(energy|sscn).py::test_digits_beat": "a network that trains, but learns nothing from digits",
    r"tests/python/test_ssc.py::test_digits_without_training": "a solver for C that is exact, but of no use on digits",
    r"tests/python/test_senet.py::test_(memory_of_a_step|a_union_of_sub)": "memory that grows with the dictionary; a "
    "SENet that trains and finds nothing",
    r"tests/python/test_(clbdsc|dscnet|energy|senet|sscn).py::test_interrupted_and": "a method's state, not saved",
    r"tests/python/test_dscnet.py::test_a_batch_size": "chunks that change more than the last digits",
    r"tests/python/test_trainer.py::test_every_way_to_consistency": "the state of a bank's rule, not saved",
    r"tests/python/test_trainer.py::test_interrupted_and_resumed.*\[(8|None-stop[13])": "a resume that is exact for "
    "full batches alone, or not in some epoch",
    r"tests/python/test_report.py::test_(plots|many|a_closed_form|a_failure)": "a plot that cannot be drawn",
}

# Before anything loads a BLAS: workers that all use every core spend most of their time waiting for each other.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _workers > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))


_slow = re.compile("|".join(SLOW)).match


def pytest_report_header(config: pytest.Config) -> str | None:
    return 'fast tests only; pytest -m "" runs all' if leaves_out_slow(config) else None


def leaves_out_slow(config: pytest.Config) -> bool:
    """Tell whether the mark expression is the one of pyproject.toml, so that no slow test need even be collected."""
    return bool(config.option.markexpr == "not slow")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, unread, the files that are slow altogether: they take long to import."""
    path = collection_path.relative_to(ROOT).as_posix()
    return True if leaves_out_slow(config) and _slow(path) else None


@pytest.hookimpl(tryfirst=True)  # before the mark expression is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow, and put the folders with the longest tests first: at the end they would leave a worker idle."""
    for item in items:
        if _slow(item.nodeid):
            item.add_marker(pytest.mark.slow)
    folders = ["tests/simt/", "tests/packaging/", "tests/python/", "tests/ops/"]
    items.sort(key=lambda item: next(i for i, folder in enumerate(folders) if item.nodeid.startswith(folder)))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the public data sets, the one place where tests on them are skipped: they are not in the
    repository. Where there is such a folder, a file that is not in it fails its test.
    """
    folder = Path(os.environ.get("DSCLUST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets at {folder}: set DSCLUST_DATA to the folder that holds orl_32x32.mat")
    return folder
