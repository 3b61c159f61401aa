"""One training step of the coefficient matrix on ‖Z − Ẑ‖² + λ‖C‖²: product, gradient, Adam. Z is given and fixed.

Owns the variants, what they must leave in C and its moments, and the least work. Inputs are those of self_expression.

Two meanings of a step for B < N: the naive layer's Adam moves all N rows every step (those outside the batch by stale
momentum and by the penalty), the other variants the batch's rows alone. The batch's own rows take the same path in
both, step for step, and that is what is compared; for the others, rows outside the batch must not move by a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from baselines import BETAS, EPS, BlockStep, CompiledStep, GatherStep, NaiveStep, ViewStep
from ceilings import relative_error
from self_expression import Inputs, Run, Shape, panel, shapes, tiny  # noqa: F401  (its shapes and inputs)
from torch import Tensor

import dsc_ext
from dsc_ext import reference

PASSES = ("step",)
NOTES = (
    "With B < N the naive step moves all N rows (Adam's momentum and the penalty); the others move the batch's rows "
    "alone. The batch's rows agree.",
)
PENALTY, LR = 1.0, 1e-3
TOLERANCE = 1e-3  # where a gradient nearly vanishes, Adam's first steps go by its sign alone
CHECKED_STEPS = 2  # the second one starts from moments
BLOCK = {"cpu": 64, "cuda": 1024}  # rows that stay in the last cache together with their moments


class Step(Protocol):
    # Each variant takes the kind of rows it is given by ``StepRun``: indices, a slice, or None.
    def __call__(self, bank: Tensor, rows: Any, Z: Tensor) -> None: ...
    def state(self) -> tuple[Tensor, Tensor, Tensor]: ...


class OurStep:
    """dsc_ext as a training loop uses it: the op under autograd with a row-sparse gradient, and RowAdam."""

    def __init__(self, C: Tensor, penalty: float, lr: float) -> None:
        self.C = C.requires_grad_()
        self.optimizer = dsc_ext.optim.RowAdam([self.C], lr, BETAS, EPS, weight_decay=2 * penalty)

    def __call__(self, bank: Tensor, rows: Tensor | None, Z: Tensor) -> None:
        if rows is None:
            Z_hat = dsc_ext.self_expression(self.C, Z)
        else:
            Z_hat = dsc_ext.self_expression(self.C, bank, rows, Z, sparse_grad=True)
        self.optimizer.zero_grad()
        (Z - Z_hat).square().sum().backward()
        self.optimizer.step()

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        moments = self.optimizer.state[self.C]
        return self.C.detach(), moments["exp_avg"], moments["exp_avg_sq"]


def names(which: str, shape: Shape, compiled: bool) -> list[str]:
    """The variants of a shape: "naive", "ours", the ways to write the best PyTorch, and one of them compiled."""
    if shape.order == "adjacent":
        return ["slice", "blocks", "ours"]
    eager = ["naive", "whole", "blocks"] if shape.order == "all" else ["naive", "gather", "views"]
    return [*eager, *(["compiled"] if compiled else []), "ours"]


def build(name: str, which: str, shape: Shape, inputs: Inputs, own: bool = False) -> Run:
    """The variant of that name with moments of its own, and a C of its own unless it may ``own`` the inputs'."""
    classes: dict[str, Callable[..., Step]] = {
        "naive": NaiveStep, "gather": GatherStep, "views": ViewStep, "compiled": CompiledStep, "ours": OurStep,
        "slice": partial(BlockStep, block=None), "whole": partial(BlockStep, block=None),
        "blocks": partial(BlockStep, block=BLOCK[inputs.C.device.type]),
    }  # fmt: skip
    step = classes[name](inputs.C if own else inputs.C.clone(), PENALTY, LR)
    return StepRun(step, inputs, name == "ours")


class StepRun:
    """One variant bound to its batches; called with the number of a batch."""

    def __init__(self, step: Step, inputs: Inputs, indices: bool) -> None:
        self.step, self.inputs, self.batch = step, inputs, inputs.indexed if indices else inputs.batch

    def __call__(self, i: int) -> None:
        rows, Z, _ = self.batch(i)
        self.step(self.inputs.bank, rows, Z)


def expected(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """C and both moments of the checked rows of batch 0 after these steps on that batch, in float64."""
    samples, at = inputs.samples(), inputs.checked()
    checked = samples[at]
    Z = inputs.Z[0].double()
    M = reference.splice(inputs.bank.double(), samples, Z)
    C = inputs.C[checked].double()
    m, v = torch.zeros_like(C), torch.zeros_like(C)
    for count in range(1, CHECKED_STEPS + 1):
        G = 2.0 * (reference.without_diagonal(C, checked) @ M - Z[at])
        grad = reference.without_diagonal(G @ M.T, checked) + 2.0 * PENALTY * C
        m = BETAS[0] * m + (1.0 - BETAS[0]) * grad
        v = BETAS[1] * v + (1.0 - BETAS[1]) * grad**2
        C = C - LR / (1.0 - BETAS[0] ** count) * m / ((v / (1.0 - BETAS[1] ** count)).sqrt() + EPS)
    return C, m, v


def error(inputs: Inputs, run: Run, wanted: tuple[Tensor, ...]) -> float:
    """Takes the steps, then the largest relative error of C and its moments; infinite if a resting row has moved."""
    assert isinstance(run, StepRun)
    for _ in range(CHECKED_STEPS):
        run(0)
    samples = inputs.samples()
    checked = samples[inputs.checked()]
    state = run.step.state()
    if not isinstance(run.step, NaiveStep):
        resting = torch.ones(inputs.C.shape[0], dtype=torch.bool, device=inputs.C.device)
        resting[samples] = False
        others = resting.nonzero()[: len(checked), 0]
        if not torch.equal(state[0][others], inputs.C[others]):
            return float("inf")
    return max(relative_error(found[checked], want) for found, want in zip(state, wanted, strict=True))


def least_work(which: str, shape: Shape) -> tuple[float, float]:
    """C and both moments of the batch's rows read and written once, the bank and Z read; two products."""
    n, d, b = shape.n, shape.d, shape.b
    return 4 * (6 * b * n + n * d + b * d), 4 * b * n * d
