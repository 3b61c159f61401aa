"""What a call of self_expression costs before any arithmetic: microseconds on tensors too small to matter.

    python benchmarks/call_overhead.py [--out benchmarks/results/call_overhead.json]

The launcher alone is the floor; `torch.empty_like` and `torch.addmm` with gradient, PyTorch's own C++, give the scale
of the machine.
"""

from __future__ import annotations

import argparse
import json
import timeit
from collections.abc import Callable
from pathlib import Path

import torch

import dsc_ext
from dsc_ext import _native


def microseconds(call: Callable[[], object], number: int = 5000, repeats: int = 25) -> float:
    """The fastest of many repeats: what the call takes when nothing else runs."""
    call()
    return min(timeit.repeat(call, number=number, repeat=repeats)) / number * 1e6


def measure() -> dict[str, float]:
    torch.set_num_threads(1)
    C, M, Z, rows = torch.randn(4, 4), torch.randn(4, 2), torch.randn(2, 2), torch.arange(2)
    C_grad, Z_grad = C.clone().requires_grad_(), Z.clone().requires_grad_()
    out, slot = torch.empty(2, 2), torch.empty(4, dtype=torch.int32)
    native = _native.backend(C)
    assert native is not None, "the extension is not built"
    arguments = (
        0,
        1,
        False,
        C.data_ptr(),
        4,
        4,
        0,
        M.data_ptr(),
        2,
        4,
        2,
        rows.data_ptr(),
        2,
        Z.data_ptr(),
        2,
        slot.data_ptr(),
    )
    arguments += (True, 1, out.data_ptr(), out.data_ptr())
    calls = {
        "torch.empty_like": lambda: torch.empty_like(M),
        "torch.addmm with gradient": lambda: torch.addmm(Z_grad, Z, Z),
        "the launcher alone": lambda: native.self_expression(*arguments),
        "its two allocations": lambda: (M.new_empty(2, 2), rows.new_empty(4, dtype=torch.int32)),
        "self_expression": lambda: dsc_ext.self_expression(C, M, rows, Z),
        "self_expression with gradient": lambda: dsc_ext.self_expression(C_grad, M, rows, Z_grad),
    }
    found = {name: round(microseconds(call), 2) for name, call in calls.items()}
    native_cost = found["the launcher alone"] + found["its two allocations"]
    found["Python around it, with gradient"] = round(found["self_expression with gradient"] - native_cost, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "call_overhead.json")
    arguments = parser.parse_args()
    found = measure()
    for name, cost in found.items():
        print(f"{name:<34} {cost:6.2f} us")
    arguments.out.write_text(json.dumps({"microseconds": found, "torch": torch.__version__}, indent=1) + "\n")
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
