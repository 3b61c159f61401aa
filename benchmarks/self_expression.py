"""The op dsc_ext.self_expression, forward and forward with backward, against plain PyTorch.

Owns the inputs, the variants, what they must give and the least work they can do. Knows nothing of timing. Every
variant is called with the number of a batch and gives (Ẑ,) or (Ẑ, ∂/∂C, ∂/∂Z); batch 0 is the one that is checked,
in float64, by the formula: Ẑ_b = Σ_{j ≠ r_b} C[r_b, j] M'_j with M' the bank whose rows r are the live Z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import baselines
import torch
from baselines import Rows
from ceilings import relative_error
from torch import Tensor

import dsc_ext
from dsc_ext import reference

PASSES = ("forward", "forward+backward")
BATCHES = 8  # cycled through, so that no variant finds its rows in the cache
CHECKED_ROWS = 256
TOLERANCE = 1e-4  # a forgotten diagonal costs 1e-2 at N = 8192 and more below
Run = Callable[[int], object]


@dataclass(frozen=True)
class Shape:
    """N samples, d latent dimensions, a batch of B; ``order`` is "shuffled", "adjacent", or "all" where B = N."""

    n: int
    d: int
    b: int
    order: str


def shapes(quick: bool) -> list[Shape]:
    found = []
    for n in [128, 256] if quick else [2048, 8192]:
        for d in [16] if quick else [32, 128, 512]:
            for b in [32] if quick else [64, 256]:
                found += [Shape(n, d, b, "shuffled"), Shape(n, d, b, "adjacent")]
            found.append(Shape(n, d, n, "all"))
    return found


def tiny(shape: Shape) -> Shape:
    """The same at the size at which the memory measurement warms up."""
    return replace(shape, n=64, b=64 if shape.order == "all" else 8)


def panel(which: str, shape: Shape) -> str | None:
    """Title of the plot's panel in which a result stands, if it is shown."""
    if which == "forward" or shape.d not in (16, 128) or shape.order == "adjacent":
        return None
    return f"{which}, d = {shape.d}, B = {'N' if shape.order == 'all' else shape.b}"


class Inputs:
    """C, one bank and a few batches of live rows and upstream gradients."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)
        n, d, b = shape.n, shape.d, shape.b

        def normal(rows: int) -> Tensor:
            return torch.randn(rows, d, generator=random).div_(d**0.5).to(device)

        C = torch.randn(n, n, generator=torch.Generator().manual_seed(1)).mul_(0.01).to(device)
        self.C, self.bank = C, normal(n)
        self.rows: list[Rows]
        count = min(BATCHES, n // b)
        if shape.order == "all":
            self.rows = [None]
        elif shape.order == "adjacent":
            self.rows = [slice(i * b, (i + 1) * b) for i in range(count)]
        else:
            order = torch.randperm(n, generator=random).to(C.device)
            self.rows = list(order[: count * b].split(b))
        # dsc_ext takes indices in every case; the plain PyTorch variants may use that rows are adjacent.
        self.index = [torch.arange(n, device=C.device)[rows] if isinstance(rows, slice) else rows for rows in self.rows]
        self.Z = [normal(b) for _ in self.rows]
        self.G = [normal(b) for _ in self.rows]

    def batch(self, i: int) -> tuple[Rows, Tensor, Tensor]:
        i %= len(self.rows)
        return self.rows[i], self.Z[i], self.G[i]

    def indexed(self, i: int) -> tuple[Tensor | None, Tensor, Tensor]:
        i %= len(self.rows)
        return self.index[i], self.Z[i], self.G[i]

    def checked(self) -> Tensor:
        """Positions in batch 0 that are compared: all of it, or 256 spread over a large one."""
        b = self.Z[0].shape[0]
        return torch.linspace(0, b - 1, min(b, CHECKED_ROWS), dtype=torch.float64).long().to(self.C.device)

    def samples(self) -> Tensor:
        """(B,) sample indices of batch 0."""
        rows = self.index[0]
        return torch.arange(self.C.shape[0], device=self.C.device) if rows is None else rows


def ours(inputs: Inputs, i: int) -> tuple[Tensor, ...]:
    rows, Z, _ = inputs.indexed(i)
    if rows is None:
        return (dsc_ext.self_expression(inputs.C, Z),)
    return (dsc_ext.self_expression(inputs.C, inputs.bank, rows, Z),)


def ours_gradients(inputs: Inputs, i: int) -> tuple[Tensor, ...]:
    rows, Z, G = inputs.indexed(i)
    C, Z = inputs.C.detach().requires_grad_(), Z.detach().requires_grad_()
    if rows is None:
        Z_hat = dsc_ext.self_expression(C, Z)
    else:
        Z_hat = dsc_ext.self_expression(C, inputs.bank, rows, Z, sparse_grad=True)
    Z_hat.backward(G)
    assert C.grad is not None and Z.grad is not None
    return Z_hat, C.grad, Z.grad


def names(which: str, shape: Shape, compiled: bool) -> list[str]:
    """The variants of a shape: "naive", "ours", and the ways to write the best PyTorch."""
    if shape.order == "adjacent":  # for the naive layer nothing differs from a shuffled batch, so it is not timed again
        return ["adjacent", "ours"]
    if shape.order == "all":
        return ["naive", "whole", "ours"]
    return ["naive", "splice", *(["correction"] if which == "forward" else []), "overwrite", "ours"]


def build(name: str, which: str, shape: Shape, inputs: Inputs, own: bool = False) -> Run:
    """The variant of that name, bound to the inputs. ``own`` says that it may keep C; here nobody writes to it."""
    if name == "ours":
        function = ours if which == "forward" else ours_gradients
        return lambda i: function(inputs, i)
    if which == "forward":
        forward = getattr(baselines, name)
        return lambda i: (forward(inputs.C, inputs.bank, *inputs.batch(i)[:2]),)
    gradients = getattr(baselines, f"{name}_gradients")
    return lambda i: gradients(inputs.C, inputs.bank, *inputs.batch(i))


def expected(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Ẑ, ∂/∂C and ∂/∂Z of the checked positions of batch 0, in float64."""
    samples, at = inputs.samples(), inputs.checked()
    Z, G = inputs.Z[0].double(), inputs.G[0].double()
    M = reference.splice(inputs.bank.double(), samples, Z)
    checked = samples[at]
    C_rows = reference.without_diagonal(inputs.C[checked].double(), checked)
    dC = reference.without_diagonal(G[at] @ M.T, checked)
    C_columns = inputs.C[:, checked][samples].double()  # (B, checked): who in the batch uses these samples
    C_columns = C_columns.masked_fill(samples[:, None] == checked[None, :], 0.0)
    return C_rows @ M, dC, C_columns.T @ G


def error(inputs: Inputs, run: Run, wanted: tuple[Tensor, ...]) -> float:
    """The largest relative error among a variant's tensors for batch 0."""
    result = run(0)
    assert isinstance(result, tuple)
    at, samples = inputs.checked(), inputs.samples()
    worst = 0.0
    for position, (found, want) in enumerate(zip(result, wanted, strict=False)):
        if position == 1:
            if found.is_sparse:
                found = found._values()
            elif found.shape[0] != samples.shape[0]:
                found = found[samples]  # the naive layer's dense gradient
        worst = max(worst, relative_error(found.detach()[at], want))
    return worst


def least_work(which: str, shape: Shape) -> tuple[float, float]:
    """Bytes moved and FLOP that no implementation can do without, each pass reading its operands once."""
    n, d, b = shape.n, shape.d, shape.b
    moved, flop = b * n + n * d + 2 * b * d, 2 * b * n * d
    if which == "forward+backward":
        # ∂/∂C is b·n numbers written; ∂/∂Z reads the b×b block of C inside the batch, all of it where b = n.
        moved += b * n + n * d + b * b + 3 * b * d
        flop += 2 * b * n * d + 2 * b * b * d
    return 4 * moved, flop
