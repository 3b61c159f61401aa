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


def run_cases(variant: str, module: Path, op: str = "", *lines: str) -> subprocess.CompletedProcess[str]:
    """op_runs.py in a process with the sanitizer's runtime loaded; ``lines`` are taken out, one at a time."""
    here = Path(__file__).parent
    environment = build.sanitized_environment(variant)
    environment["PYTHONPATH"] = f"{here.parent}:{Path(dsc_ext.__file__).parent.parent}"
    command = build.sanitized_command(variant, [str(here / "op_runs.py"), str(module), op, *lines])
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


def ordering_lines() -> dict[str, list[str]]:
    """ "file:line" of each statement of the kernels that only orders, by an op whose cases run it."""
    found: dict[str, list[str]] = {}
    for path in sorted([*(build.CSRC / "cuda").glob("*.cu"), *(build.CSRC / "cuda").glob("*.cuh")]):
        text = path.read_text()
        for match in ORDERING.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.setdefault(OP_OF.get(path.name, path.stem), []).append(f"{path.name}:{line}")
    return found


def unnoticed(variant: str, module: Path, op: str, lines: list[str]) -> list[str]:
    """The lines that could be taken out with right numbers and no report."""
    done = run_cases(variant, module, op, *lines)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout[-3000:] + done.stderr[-8000:]
    results = json.loads(done.stdout)
    for line, result in results.items():
        assert result["died"] or result["executed"], f"{line}: no case of {op} runs a kernel"
    return [line for line, result in results.items() if not result["died"] and result["wrong"] is None]


def test_every_barrier_and_wait_would_be_missed() -> None:
    """By wrong numbers in one of the orders, else by a report of ThreadSanitizer.

    They are taken out of the running emulator and not of the source, so that nothing is compiled for it. Lost: what the
    compiler would do besides, once a barrier no longer kept it from moving accesses, which could only show it more.
    """
    left = ordering_lines()
    assert left, "no barrier found: has ORDERING gone stale?"
    for variant in ("plain", "tsan"):
        module = build.build_package(variant)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(unnoticed, repeat(variant), repeat(module), left.keys(), left.values()))
        left = {op: lines for op, lines in zip(left, found, strict=True) if lines}
    assert left == {}
