"""setup.py's choices, as plain functions: where nvcc is sought, which architectures, how many jobs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, without running setup()."""
    import setuptools

    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    for variable in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "DSCLUST_CUDA_ARCHS", "DSCLUST_WERROR", "MAX_JOBS"):
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


@pytest.mark.parametrize(("value", "passed"), [(None, "OFF"), ("0", "OFF"), ("1", "ON")])
def test_warnings_are_errors_on_demand_alone(
    choices: ModuleType,
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    passed: str,
) -> None:
    if value is not None:
        monkeypatch.setenv("DSCLUST_WERROR", value)
    build(choices)
    assert f"-DCMAKE_COMPILE_WARNING_AS_ERROR={passed}" in commands[0]
    assert "Werror" not in (ROOT / "csrc" / "CMakeLists.txt").read_text()


def test_an_odd_folder_is_seen_through_links(
    choices: ModuleType, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No path that CMake is given has a character of the folder's name, and nothing is left behind."""
    monkeypatch.setattr(choices, "ROOT", tmp_path / "a [b]; $c")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    build(choices)
    given = [part for command in commands for part in command]
    assert given and not [part for part in given if set("[];$") & set(part)]
    source, tree = (commands[0][commands[0].index(option) + 1] for option in ("-S", "-B"))
    assert Path(source).name == "csrc" and tree in commands[1] and Path(tree).parent == Path(source).parent.parent
    assert not list(tmp_path.glob("dsc-ext-*"))


def test_paths_without_odd_characters_stay(choices: ModuleType, tmp_path: Path) -> None:
    plain = choices.PlainPaths(str(tmp_path))
    assert plain("/a b/é/c-1.2+d/csrc", "/a b") == "/a b/é/c-1.2+d/csrc" and not plain.links
    assert plain("/a (b)/venv/bin/python", "/a (b)/venv") == f"{tmp_path}/link0/bin/python"
    assert plain("/a (b)/venv/bin/ninja", "/a (b)/venv") == f"{tmp_path}/link0/bin/ninja"
    assert os.readlink(tmp_path / "link0") == "/a (b)/venv"
    odd = choices.PlainPaths("/tmp (x)/dsc-ext-1")
    assert odd("/a b/csrc", "/a b") == "/a b/csrc"  # a link that nobody needs is not asked for
    with pytest.raises(SystemExit, match=r"TMPDIR must name a folder of letters.*got '/tmp \(x\)'"):
        odd("/a (b)/csrc", "/a (b)")


def test_a_cmake_that_cannot_work_is_passed_over(
    choices: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CMake's own modules look for each other by patterns."""
    for folder in ("a [b]", "good"):
        tool = tmp_path / folder / "bin" / "cmake"
        tool.parent.mkdir(parents=True)
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
    odd, good = tmp_path / "a [b]" / "bin", tmp_path / "good" / "bin"
    monkeypatch.setattr(choices.sys, "executable", str(odd / "python"))
    monkeypatch.setenv("PATH", str(good))
    assert choices.find_tool("cmake") == str(good / "cmake")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="CMake does not find its own files"):
        choices.find_tool("cmake")


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


@pytest.mark.parametrize(("variable", "known"), [("DSCLUST_CUDA", "auto, 1 or 0"), ("DSCLUST_WERROR", "0 or 1")])
@pytest.mark.parametrize("value", ["yes", "2"])
def test_an_unknown_choice_is_refused(
    choices: ModuleType, monkeypatch: pytest.MonkeyPatch, variable: str, known: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match=f"{variable} must be {known}, got '{value}'"):
        build(choices)
