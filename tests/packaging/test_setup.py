"""setup.py's choices, as plain functions: where nvcc is sought, which architectures, how many jobs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, without running setup()."""
    import setuptools

    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    for variable in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "DSC_CUDA_ARCHS", "MAX_JOBS"):
        monkeypatch.delenv(variable, raising=False)
    spec = importlib.util.spec_from_file_location("dsc_ext_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_nvcc(folder: Path) -> Path:
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    return nvcc


def test_cuda_home_comes_before_path(choices: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = fake_nvcc(tmp_path / "mine"), fake_nvcc(tmp_path / "other")
    monkeypatch.setenv("PATH", str(other.parent))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "mine"))
    assert choices.find_nvcc()[0] == str(mine)
    monkeypatch.setenv("CUDACXX", str(other))
    assert choices.find_nvcc()[0] == str(other)


def test_every_place_searched_is_named(choices: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    _, searched = choices.find_nvcc()
    assert searched == ["CUDACXX (not set)", "CUDA_HOME=/nowhere", "CUDA_PATH (not set)", "PATH", "/usr/local/cuda"]


@pytest.mark.parametrize(
    ("found", "archs"),
    [("9.0\n", "90a-real"), ("8.0\n8.0\n8.9\n", "80-real;89-real"), ("", "default"), ("[N/A]\n", "default")],
)
def test_architectures_are_those_of_the_machine(
    choices: ModuleType, monkeypatch: pytest.MonkeyPatch, found: str, archs: str
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=found, stderr=""))
    assert choices.cuda_archs() == (choices.DEFAULT_ARCHS if archs == "default" else archs)
    monkeypatch.setenv("DSC_CUDA_ARCHS", "86-real")
    assert choices.cuda_archs() == "86-real"


def test_jobs_fit_memory_unless_told_otherwise(choices: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 8 * 2**30 // 4096}.__getitem__)
    assert choices.jobs() == 4
    monkeypatch.setenv("MAX_JOBS", "7")
    assert choices.jobs() == 7
