"""Every CUDA kernel compiles without a warning, without spilling, within its checked-in budget: for sm_90a, and with
DSC_EVERY_ARCHITECTURE=1, as before a release, for every architecture.

csrc/cuda/budget.json holds, per source, kernel and architecture, the most registers a thread may use (rounded up to
8, the unit they are allocated in), and the bytes of static shared memory and of stack. A kernel that needs more fails,
and so does one without a budget. After a deliberate change:
``python tests/packaging/test_ptxas_budget.py --update``, and read the diff.

Needs nvcc (CUDACXX, CUDA_HOME, PATH, /usr/local/cuda; else skipped), no GPU. The assembler's output is kept in the
checkout's build folder ($DSC_EMULATOR_CACHE names another), under a hash of what went into it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
BUDGET = CSRC / "cuda" / "budget.json"
SOURCES = sorted(path.relative_to(CSRC).as_posix() for path in CSRC.rglob("*.cu"))
EVERY = ("80", "86", "89", "90a")
# One architecture but before a release: no kernel asks which it is compiled for, so what differs is ptxas's allocation.
# Lost is a kernel that spills or outgrows its budget on another alone, until DSC_EVERY_ARCHITECTURE=1 compiles for all.
ARCHITECTURES = EVERY if os.environ.get("DSC_EVERY_ARCHITECTURE") == "1" or "--update" in sys.argv else ("90a",)
PTX = "90"  # the newest without the architecture-specific features, which later devices would refuse
FLAGS = ["-std=c++17", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v", "-Xcompiler", "-fPIC,-Wall,-Wextra"]

Usage = dict[str, int]  # registers, shared, stack, spills
Table = dict[str, dict[str, Usage]]  # kernel -> architecture -> usage


def find_nvcc() -> tuple[str | None, str]:
    """The compiler, or None; and where it was looked for."""
    places = [
        os.environ.get("CUDACXX"),
        os.environ.get("CUDA_HOME") and f"{os.environ['CUDA_HOME']}/bin/nvcc",
        shutil.which("nvcc"),
        "/usr/local/cuda/bin/nvcc",
    ]
    for place in places:
        if place and (found := shutil.which(place)):
            return found, ""
    return None, "CUDACXX, CUDA_HOME, PATH and /usr/local/cuda"


NVCC, SEARCHED = find_nvcc()


def compile_verbosely(source: str) -> str:
    """What nvcc and ptxas say about csrc/``source``; RuntimeError with their output if they refuse it."""
    assert NVCC is not None
    command = [NVCC, *FLAGS, f"-I{CSRC}", "-c", str(CSRC / source)]
    for architecture in ARCHITECTURES:
        command += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
    if ARCHITECTURES == EVERY:
        command += ["-gencode", f"arch=compute_{PTX},code=compute_{PTX}"]

    version = subprocess.run([NVCC, "--version"], capture_output=True, text=True, check=True).stdout
    headers = sorted(path for suffix in ("h", "cuh") for path in CSRC.rglob(f"*.{suffix}"))
    state = hashlib.sha256("\0".join([version, *command]).encode())
    for path in [CSRC / source, *headers]:
        state.update(path.read_bytes() + b"\0")
    cache = Path(os.environ.get("DSC_EMULATOR_CACHE") or ROOT / "build") / "ptxas"
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / f"{Path(source).stem}-{state.hexdigest()[:24]}.txt"
    if kept.exists():
        return kept.read_text()

    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run([*command, "-o", f"{scratch}/kernel.o"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    partial = kept.with_suffix(f".{os.getpid()}")
    partial.write_text(done.stdout + done.stderr)
    os.replace(partial, kept)
    return done.stdout + done.stderr


def parse(text: str) -> Table:
    """Usage per kernel (demangled) and architecture from the output of ``-Xptxas -v``."""
    entry = re.compile(
        r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<architecture>\w+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    entries = list(entry.finditer(text))
    if len(entries) != text.count("Compiling entry function"):
        raise ValueError(f"cannot read the output of ptxas -v:\n{text}")
    mangled = "\n".join(found["kernel"] for found in entries)
    names = subprocess.run(["c++filt"], input=mangled, capture_output=True, text=True, check=True).stdout.splitlines()
    table: Table = {}
    for name, found in zip(names, entries, strict=True):
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        # Parameters do not tell instances apart, template arguments do.
        kernel = re.sub(r"^void |\(anonymous namespace\)::|\((?:[^()]|\([^()]*\))*\)$", "", name)
        table.setdefault(kernel, {})[found["architecture"]] = {
            "registers": int(found["registers"]),
            "shared": int(shared[1]) if shared else 0,
            "stack": int(found["stack"]),
            "spills": int(found["stores"]) + int(found["loads"]),
        }
    return table


@functools.lru_cache(maxsize=1)
def measure() -> dict[str, Table | RuntimeError]:
    """Every source compiled, two at a time; a source that does not compile holds its error."""

    def one(source: str) -> Table | RuntimeError:
        try:
            return parse(compile_verbosely(source))
        except RuntimeError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SOURCES, pool.map(one, SOURCES), strict=True))


def allowance(usage: Usage) -> Usage:
    """The budget that this usage fits: spills are never in it."""
    return {"registers": -(-usage["registers"] // 8) * 8, "shared": usage["shared"], "stack": usage["stack"]}


def violations(table: Table, budget: Table) -> list[str]:
    """What is wrong with the measured ``table`` under ``budget``, one sentence each."""
    wrong = [f"{kernel}: in the budget, but no longer in the source" for kernel in budget if kernel not in table]
    for kernel, architectures in table.items():
        for architecture, usage in architectures.items():
            where = f"{kernel} for sm_{architecture}"
            if usage["spills"]:
                wrong.append(f"{where}: spills {usage['spills']} bytes")
            allowed = budget.get(kernel, {}).get(architecture)
            if allowed is None:
                wrong.append(f"{where}: no budget")
                continue
            for kind, most in allowed.items():
                if usage[kind] > most:
                    wrong.append(f"{where}: {kind} {usage[kind]}, budget {most}")
    return wrong


@pytest.mark.skipif(NVCC is None, reason=f"no nvcc: looked at {SEARCHED}")
@pytest.mark.parametrize("source", SOURCES)
def test_kernels_keep_to_their_budget(source: str) -> None:
    measured = measure()[source]
    if isinstance(measured, RuntimeError):
        pytest.fail(str(measured))
    assert all(set(usage) == set(ARCHITECTURES) for usage in measured.values())
    wrong = violations(measured, json.loads(BUDGET.read_text()).get(source, {}))
    assert not wrong, "\n".join([*wrong, f"If deliberate: python {Path(__file__).name} --update"])


def test_no_kernel_asks_for_its_architecture() -> None:
    """Where one does, the architectures that it tells apart have to be compiled in every run."""
    asking = re.compile(r"__CUDA_ARCH|NV_IF_TARGET|NV_IF_ELSE_TARGET")
    assert [path.name for path in CSRC.rglob("*.cu*") if asking.search(path.read_text())] == []


def test_the_budget_names_no_vanished_source() -> None:
    assert set(json.loads(BUDGET.read_text())) <= set(SOURCES)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"registers": 41}, "k<float> for sm_80: registers 41, budget 40"),
        ({"shared": 2049}, "k<float> for sm_80: shared 2049, budget 2048"),
        ({"stack": 8}, "k<float> for sm_80: stack 8, budget 0"),
        ({"spills": 4}, "k<float> for sm_80: spills 4 bytes"),
        ({}, None),
    ],
)
def test_what_exceeds_the_budget_is_named(change: Usage, complaint: str | None) -> None:
    within: Usage = {"registers": 37, "shared": 2048, "stack": 0, "spills": 0}
    budget = {"k<float>": {"80": allowance(within)}}
    assert violations({"k<float>": {"80": within | change}}, budget) == ([complaint] if complaint else [])


def test_a_kernel_without_budget_and_a_budget_without_kernel_are_named() -> None:
    usage: Usage = {"registers": 8, "shared": 0, "stack": 0, "spills": 0}
    assert violations({"new": {"80": usage}}, {"old": {"80": usage}}) == [
        "old: in the budget, but no longer in the source",
        "new for sm_80: no budget",
    ]


def test_the_output_of_ptxas_is_read() -> None:
    text = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN3dsc3addIfEEvPT_i' for 'sm_90a'
ptxas info    : Function properties for _ZN3dsc3addIfEEvPT_i
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 4112 bytes smem, 364 bytes cmem[0]
"""
    assert parse(text) == {"dsc::add<float>": {"90a": {"registers": 32, "shared": 4112, "stack": 16, "spills": 12}}}


def update() -> None:
    """Write the budget that the present kernels fit; refuse while one spills or does not compile."""
    if NVCC is None:
        sys.exit(f"no nvcc: looked at {SEARCHED}")
    budget: dict[str, Table] = {}
    spilling: list[str] = []
    for source, measured in measure().items():
        if isinstance(measured, RuntimeError):
            sys.exit(str(measured))
        budget[source] = {
            kernel: {architecture: allowance(usage) for architecture, usage in sorted(architectures.items())}
            for kernel, architectures in sorted(measured.items())
        }
        spilling += violations(measured, budget[source])
    if spilling:
        sys.exit("\n".join(spilling))
    text = json.dumps(budget, indent=2)
    text = re.sub(r"\{\s+(\"registers\"[^}]*?)\s+\}", lambda found: "{" + re.sub(r"\s+", " ", found[1]) + "}", text)
    partial = BUDGET.with_suffix(".partial")
    partial.write_text(text + "\n")
    os.replace(partial, BUDGET)


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit("usage: test_ptxas_budget.py --update")
    update()
