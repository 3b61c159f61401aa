"""One training step of the coefficient matrix on ‖Z − Ẑ‖² + λ‖C‖²: product, gradient, Adam. Z is given and fixed.

Owns the variants, what they must leave in C and its moments, and the least work. Inputs are those of self_expression.
"ours" is the layer whose backward pass steps C; "ours composed" the op under autograd with a row-sparse gradient and
RowAdam, which "ours" must not fall behind; "ours bf16" keeps its moments in bfloat16.

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
BLOCKS = (64, 256, 1024)  # rows whose gradient may stay in a cache


class Step(Protocol):
    # Each variant takes the kind of rows it is given by ``StepRun``: indices, a slice, or None.
    def __call__(self, bank: Tensor, rows: Any, Z: Tensor) -> None: ...
    def state(self) -> tuple[Tensor, Tensor, Tensor]: ...


def upstream(Z_hat: Tensor, Z: Tensor) -> Tensor:
    """∂‖Z − Ẑ‖²/∂Ẑ, written down by all but the naive variant: the loss is not what is measured."""
    return (Z_hat.detach() - Z).mul_(2.0)


class FusedStep:
    """dsc_ext as a training loop uses it: a layer whose backward pass steps C."""

    def __init__(self, C: Tensor, penalty: float, lr: float, moments: torch.dtype | None = None) -> None:
        settings = dsc_ext.FusedAdam(lr, BETAS, EPS, weight_decay=2 * penalty, moments=moments)
        with torch.device("meta"):  # no second C, not even for a moment: peak memory is measured
            self.layer = dsc_ext.SelfExpression(C.shape[0], zero_diagonal=True, fused_adam=settings)
        self.layer.Coefficient = torch.nn.Parameter(C)
        for name, buffer in self.layer.named_buffers():
            setattr(self.layer, name, torch.zeros_like(buffer, device=C.device))

    def __call__(self, bank: Tensor, rows: Tensor | None, Z: Tensor) -> None:
        Z_hat = self.layer(Z) if rows is None else self.layer(Z, rows, bank)
        Z_hat.backward(upstream(Z_hat, Z))

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.layer.Coefficient.detach(), self.layer.exp_avg, self.layer.exp_avg_sq


class ComposedStep:
    """The op under autograd with a row-sparse gradient, then RowAdam."""

    def __init__(self, C: Tensor, penalty: float, lr: float) -> None:
        self.C = C.requires_grad_()
        self.optimizer = dsc_ext.optim.RowAdam([self.C], lr, BETAS, EPS, weight_decay=2 * penalty)

    def __call__(self, bank: Tensor, rows: Tensor | None, Z: Tensor) -> None:
        if rows is None:
            Z_hat = dsc_ext.self_expression(self.C, Z)
        else:
            Z_hat = dsc_ext.self_expression(self.C, bank, rows, Z, sparse_grad=True)
        self.optimizer.zero_grad()
        Z_hat.backward(upstream(Z_hat, Z))
        self.optimizer.step()

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        moments = self.optimizer.state[self.C]
        return self.C.detach(), moments["exp_avg"], moments["exp_avg_sq"]


OURS = {"ours": FusedStep, "ours composed": ComposedStep, "ours bf16": partial(FusedStep, moments=torch.bfloat16)}


def names(which: str, shape: Shape, compiled: bool) -> list[str]:
    """The variants of a shape: "naive", ours, the ways to write the best PyTorch, and one of them compiled."""
    blocks = [block for block in BLOCKS if block < shape.b]
    in_blocks = [f"blocks of {block}" for block in blocks]
    if shape.order == "adjacent":
        return ["slice", *in_blocks, *OURS]
    if shape.order == "all":
        eager = ["naive", "whole", *in_blocks, *(f"product, blocks of {block}" for block in blocks[1:2])]
    else:
        eager = ["naive", "gather", "views", *(f"gather blocks of {block}" for block in blocks[:1])]
    return [*eager, *(["compiled"] if compiled else []), *OURS]


def build(name: str, which: str, shape: Shape, inputs: Inputs, own: bool = False) -> Run:
    """The variant of that name with moments of its own, and a C of its own unless it may ``own`` the inputs'."""
    classes: dict[str, Callable[..., Step]] = {
        "naive": NaiveStep, "gather": GatherStep, "views": ViewStep, "compiled": CompiledStep, **OURS,
        "slice": partial(BlockStep, block=None), "whole": partial(BlockStep, block=None),
    }  # fmt: skip
    for block in BLOCKS:
        classes[f"blocks of {block}"] = partial(BlockStep, block=block)
        classes[f"product, blocks of {block}"] = partial(BlockStep, block=block, one_product=True)
        classes[f"gather blocks of {block}"] = partial(GatherStep, block=block)
    step = classes[name](inputs.C if own else inputs.C.clone(), PENALTY, LR)
    return StepRun(step, inputs, name in OURS)


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
    # Moments in bfloat16 are rounded at random; that C is right after the second step shows that they are too.
    held = state[:1] if state[1].dtype == torch.bfloat16 else state
    return max(relative_error(found[checked], want) for found, want in zip(held, wanted, strict=False))


def least_work(which: str, shape: Shape) -> tuple[float, float]:
    """C and both moments of the batch's rows read and written once, the bank and Z read; two products."""
    n, d, b = shape.n, shape.d, shape.b
    return 4 * (6 * b * n + n * d + b * d), 4 * b * n * d
