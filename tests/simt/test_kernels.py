"""The package's CUDA kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, on the emulator.

Every kernel has to run under both builds, give the reference's numbers in every order, and draw no report.
ThreadSanitizer sees the threads of a block, and a block and the next, ordered only by what the kernel does (barriers,
__syncwarp, fences). That this would notice is shown on the kernels themselves: each barrier and each wait is taken out
once, and every time it must be missed.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import pytest

import dsc_ext
from simt import build

ORDERING = re.compile(r"^ *(__syncthreads\(\)|__syncwarp\(\)|cp_async_wait<[^>]+>\(\));.*$", re.MULTILINE)

OP_OF = {
    "bank.cu": "bank_push_",
    "block.cuh": "threshold_coefficients",
    "tile.cuh": "self_expression",
    "scan.cuh": "symmetrize_affinity",
    "info_nce.cu": "info_nce_expected",
    "on_support.cu": "elastic_net_on_support",
    "self_expression_step.cu": "self_expression_step_",
    "sparse_self_expression.cu": "sparse_self_expression_transposed",
}  # where it is not the file's name: an op whose cases run that code


def run_cases(variant: str, module: Path, op: str = "") -> subprocess.CompletedProcess[str]:
    """op_runs.py in a process with the sanitizer's runtime loaded."""
    here = Path(__file__).parent
    environment = build.sanitized_environment(variant)
    environment["PYTHONPATH"] = f"{here.parent}:{Path(dsc_ext.__file__).parent.parent}"
    command = build.sanitized_command(variant, [str(here / "op_runs.py"), str(module), op])
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


def name(kernel: str) -> str:
    """A kernel without return type, namespaces, template arguments and parameters."""
    found = re.search(r"(\w+)(?:<.*>)?\(.*\)$", kernel)
    assert found is not None, kernel
    return found[1]


@pytest.mark.parametrize("variant", ["asan", "tsan"])
def test_every_kernel_is_right_and_clean_under_the_sanitizers(variant: str) -> None:
    done = run_cases(variant, build.build_package(variant))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-8000:]
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr[-8000:]
    result = json.loads(done.stdout)
    assert result["wrong"] is None
    assert set(map(name, result["kernels"])) == set(map(name, result["executed"])), "a kernel that no case launches"


def mutants() -> Iterator[tuple[str, Path, str]]:
    """(where, file, its text without that line) for each line of the kernels that only orders."""
    for path in sorted([*(build.CSRC / "cuda").glob("*.cu"), *(build.CSRC / "cuda").glob("*.cuh")]):
        text = path.read_text()
        for found in ORDERING.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield f"{path.name}:{line} {found[1]}", path, text[: found.start()] + text[found.end() :]


def noticed(variant: str, module: Path, op: str) -> bool:
    """By a wrong number, or because the process ended early: the sanitizer's report, or a memory error."""
    done = run_cases(variant, module, op)
    assert "Traceback" not in done.stderr, done.stderr[-8000:]
    if done.returncode != 0:
        return True
    result = json.loads(done.stdout)
    assert result["executed"], f"a changed line whose op no case runs: {op}"
    return result["wrong"] is not None


def test_every_barrier_and_wait_would_be_missed(tmp_path: Path) -> None:
    """By wrong numbers in one of the orders, else by a report of ThreadSanitizer."""
    lines: dict[str, Path] = {}  # what was taken out -> the overlay without it
    ops: dict[str, str] = {}
    for number, (where, path, text) in enumerate(mutants()):
        lines[where] = tmp_path / str(number)
        ops[where] = OP_OF.get(path.name, path.stem)
        changed = lines[where] / path.relative_to(build.CSRC)
        changed.parent.mkdir(parents=True)
        changed.write_text(text)
    assert lines, "no barrier found: has ORDERING gone stale?"

    unnoticed = list(lines)
    for variant in ("plain", "tsan"):
        modules = [build.build_package(variant, lines[where]) for where in unnoticed]
        with ThreadPoolExecutor(2) as pool:
            seen = list(pool.map(noticed, repeat(variant), modules, [ops[where] for where in unnoticed]))
        unnoticed = [where for where, found in zip(unnoticed, seen, strict=True) if not found]
    assert unnoticed == []
