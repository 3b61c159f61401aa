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
    for variable in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "DSCLUST_CUDA_ARCHS", "MAX_JOBS"):
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
    monkeypatch.setenv("DSCLUST_CUDA_ARCHS", "86-real")
    assert choices.cuda_archs() == "86-real"


def test_jobs_fit_memory_unless_told_otherwise(choices: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 8 * 2**30 // 4096}.__getitem__)
    assert choices.jobs() == 4
    monkeypatch.setenv("MAX_JOBS", "7")
    assert choices.jobs() == 7


@pytest.fixture
def commands(choices: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """What a build without nvcc would run, instead of running it."""
    ran: list[list[str]] = []
    monkeypatch.setattr(choices, "find_nvcc", lambda: (None, ["CUDACXX (not set)", "PATH"]))
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ran.append(command))
    monkeypatch.setattr(choices, "find_tool", lambda name: name)
    monkeypatch.chdir(tmp_path)
    return ran


def build(choices: ModuleType) -> None:
    from setuptools import Distribution, Extension

    command = choices.CMakeBuild(Distribution({"name": "dsc-ext"}))
    command.build_temp, command.build_lib = "temp", "lib"
    command.ensure_finalized()
    command.extensions = []
    command.build_extension(Extension("dsc_ext._C", sources=[]))


def test_without_nvcc_a_cpu_build_and_one_warning(
    choices: ModuleType, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    build(choices)
    assert "-DDSC_CUDA=OFF" in commands[0] and "-DDSC_NVCC_SEARCHED=CUDACXX (not set), PATH" in commands[0]
    said = capsys.readouterr().err
    assert said.count("WARNING: dsc-ext: CPU build") == 1 and "looked for nvcc at: CUDACXX (not set), PATH" in said


def test_cuda_switched_off_is_quiet(
    choices: ModuleType, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSCLUST_CUDA", "0")
    build(choices)
    assert "-DDSC_CUDA=OFF" in commands[0] and not capsys.readouterr().err


def test_cuda_demanded_but_absent_stops_the_build(
    choices: ModuleType, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSCLUST_CUDA", "1")
    with pytest.raises(SystemExit, match="DSCLUST_CUDA=1, but no CUDA compiler found"):
        build(choices)
    assert not commands


@pytest.mark.parametrize("value", ["yes", "2"])
def test_an_unknown_choice_is_refused(choices: ModuleType, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DSCLUST_CUDA", value)
    with pytest.raises(SystemExit, match=f"DSCLUST_CUDA must be auto, 1 or 0, got '{value}'"):
        build(choices)
