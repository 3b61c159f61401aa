"""The op tests' case table on the emulated CUDA kernels, in every order: what the sanitizers watch.

A script for a child process: ``op_runs.py MODULE OP`` loads a shared object that ``build.build_package`` made, runs the
cases of one op ("" for all), and prints one JSON line: the first failure, which kernels ran and which there are.
``op_runs.py MODULE OP FILE:LINE ...`` does so once for each line, with the barrier in it taken out.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from ops import cases
from ops.cases import Case
from ops.test_ops import TOLERANCE, assert_same
from torch import Tensor

import dsc_ext  # noqa: F401  (registers the ops)
from dsc_ext import _native
from simt import build


def gradients(case: Case, dtype: torch.dtype, function: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor | None, ...]:
    """Of a fixed linear function of what ``function`` returns, for the case's differentiable arguments."""
    arguments = case.arguments(dtype)
    inputs = [arguments[i].requires_grad_() for i in case.differentiable]
    outputs = [out for out in function(case, arguments) if out is not None and out.requires_grad]
    total = sum((out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum() for out in outputs)
    return torch.autograd.grad(total, inputs, allow_unused=True)


def run(module: ModuleType, op: str) -> str | None:
    """Run the cases of ``op`` ("" for all) with the module's launchers on CPU tensors, up to the first failure."""
    _native.backends["cpu"] = module.cuda
    for case in cases.CASES:
        if op not in ("", case.op):
            continue
        for order in build.ORDERS:
            module.set_order(*order)
            for dtype in (torch.float32, torch.float64):
                arguments = case.arguments(dtype)
                expected = cases.expected(case, cases.clone(arguments))
                try:
                    assert_same(case, cases.call(case, arguments), expected)
                    if case.differentiable:
                        found = gradients(case, dtype, cases.call)
                        if case.op.startswith("symmetrize"):  # they return entries, the reference a matrix
                            continue
                        for mine, theirs in zip(found, gradients(case, dtype, cases.expected), strict=True):
                            torch.testing.assert_close(mine, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
                except (AssertionError, RuntimeError) as error:
                    return f"{case}, {dtype}, {order[0]}: {error}"
    return None


def look(path: str, op: str, line: str = "") -> dict[str, Any]:
    """What running the cases shows, with one "file:line" taken out."""
    module = build.load_package(Path(path))
    if line:
        file, number = line.split(":")
        module.control.take_out(file, int(number))
    wrong = run(module, op)
    control = module.control
    return {"wrong": wrong, "executed": sorted(control.executed()), "kernels": sorted(control.kernels.values())}


def look_in_a_child(path: str, op: str, line: str) -> dict[str, Any]:
    """The same in a fork, which may die of what is taken out."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            json.dump(look(path, op, line), pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return {"died": True} if status != 0 else {"died": False, **json.loads(said)}


def main(path: str, op: str, *lines: str) -> None:
    found = {line: look_in_a_child(path, op, line) for line in lines} if lines else look(path, op)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
