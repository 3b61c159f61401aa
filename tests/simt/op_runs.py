"""The op tests' case table on the emulated CUDA kernels, in every order: what the sanitizers watch.

A script for a child process: ``op_runs.py MODULE OP`` loads a shared object that ``build.build_package`` made, runs the
cases of one op ("" for all), and prints one JSON line: the first failure, which kernels ran and which there are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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


def main(path: str, op: str) -> None:
    module = build.load_package(Path(path))
    wrong = run(module, op)
    control = module.control
    found = {"executed": sorted(control.executed()), "kernels": sorted(control.kernels.values())}
    print(json.dumps({"wrong": wrong, **found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
