"""The ops dsc_ext.bank_scatter_ and bank_push_: rows into the memory bank, against PyTorch's indexing.

Owns the inputs, the variants, what they must give and the least work they can do. Knows nothing of timing. Passes: rows
replaced by shuffled, distinct indices; the same, normalized; and pushed, first in first out. Every variant has a bank
of its own and gives it back; batch 0 is the one that is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from ceilings import relative_error
from torch import Tensor
from torch.nn.functional import normalize

import dsc_ext

PASSES = ("replace", "normalize", "push")
BATCHES = 8
TOLERANCE = 1e-3  # of a bfloat16 bank a few numbers lie at a rounding's edge
NOTES = [
    "Not the same promise: index_copy and setitem leave open which of duplicate rows wins.",
]
Run = Callable[[int], Tensor]


@dataclass(frozen=True)
class Shape:
    """A bank of N rows of d numbers in dtype ``order``, float32 batches of B rows."""

    n: int
    d: int
    b: int
    order: str

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.order == "bfloat16" else torch.float32


def shapes(quick: bool) -> list[Shape]:
    if quick:
        return [Shape(n, 16, 32, dtype) for n in (128, 256) for dtype in ("float32", "bfloat16")]
    return [
        Shape(n, d, b, dtype)
        for dtype in ("float32", "bfloat16")
        for d in (64, 512)
        for b in (256, 8192)
        for n in (10_000, 100_000)
    ]


def tiny(shape: Shape) -> Shape:
    """The same at the size at which the memory measurement warms up."""
    return replace(shape, n=64, b=8)


def panel(which: str, shape: Shape) -> str | None:
    """Title of the plot's panel in which a result stands, if it is shown."""
    if shape.order == "bfloat16" or shape.d == 64:
        return None
    return f"{which}, d = {shape.d}, B = {shape.b}"


class Inputs:
    """The bank as it is at first, and a few batches."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)
        self.shape = shape
        self.bank = torch.randn(shape.n, shape.d, generator=random).to(device, shape.dtype)
        self.rows = [torch.randperm(shape.n, generator=random)[: shape.b].to(device) for _ in range(BATCHES)]
        self.Z = [torch.randn(shape.b, shape.d, generator=random).to(device) for _ in range(BATCHES)]

    def batch(self, i: int) -> tuple[Tensor, Tensor]:
        return self.rows[i % BATCHES], self.Z[i % BATCHES]


def names(which: str, shape: Shape, compiled: bool) -> list[str]:
    return ["modulo", "slices", "ours"] if which == "push" else ["index_copy", "setitem", "ours"]


def build(name: str, which: str, shape: Shape, inputs: Inputs, own: bool = False) -> Run:
    bank = inputs.bank.clone()
    cursor, steps = torch.zeros((), dtype=torch.int64, device=bank.device), torch.arange(shape.b, device=bank.device)
    start = 0

    def fresh(Z: Tensor) -> Tensor:
        return (normalize(Z) if which == "normalize" else Z).to(bank.dtype)

    def run(i: int) -> Tensor:
        nonlocal start
        rows, Z = inputs.batch(i)
        if name == "index_copy":
            bank.index_copy_(0, rows, fresh(Z))
        elif name == "setitem":
            bank[rows] = fresh(Z)
        elif name == "modulo":  # the cursor on the device
            bank.index_copy_(0, (cursor + steps) % shape.n, Z.to(bank.dtype))
            cursor.add_(shape.b).remainder_(shape.n)
        elif name == "slices":  # the cursor on the host
            first = min(shape.b, shape.n - start)
            bank[start : start + first] = Z[:first]
            bank[: shape.b - first] = Z[first:]
            start = (start + shape.b) % shape.n
        elif which == "push":
            dsc_ext.bank_push_(bank, cursor, Z)
        else:
            dsc_ext.bank_scatter_(bank, rows, Z, normalize=which == "normalize")
        return bank

    run.which = which  # type: ignore[attr-defined]  # what it must give depends on it
    return run


def expected(inputs: Inputs) -> tuple[Tensor, ...]:
    """The bank after batch 0, pass by pass."""
    rows, Z = inputs.batch(0)
    dtype, double = inputs.bank.dtype, Z.double()
    slots = torch.arange(rows.shape[0], device=rows.device)
    written = ((rows, double), (rows, normalize(double)), (slots, double))
    return tuple(inputs.bank.index_copy(0, at, values.to(dtype)) for at, values in written)


def error(inputs: Inputs, run: Run, wanted: tuple[Tensor, ...]) -> float:
    return relative_error(run(0).double(), wanted[PASSES.index(run.which)].double())  # type: ignore[attr-defined]


def least_work(which: str, shape: Shape) -> tuple[float, float]:
    """Bytes: Z and its indices read, as many rows written."""
    index = 0 if which == "push" else 8
    return shape.b * (shape.d * (4 + shape.dtype.itemsize) + index), 2.0 * shape.b * shape.d * (which == "normalize")
