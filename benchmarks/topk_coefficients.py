"""The op dsc_ext.topk_coefficients, from queries and keys and from a matrix, against PyTorch, faiss and NumPy.

Owns the inputs, the variants, what they must give and the least work they can do. Knows nothing of timing. Every
variant is called with the number of a batch and gives (values, indices), each sample's own column left out; batch 0 is
the one that is checked: its indices are looked up in float64 scores and held against the k largest of those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from ceilings import relative_error
from torch import Tensor

import dsc_ext

try:
    import faiss
except ImportError:
    faiss = None

PASSES = ("forward",)
BATCHES = 8
CHECKED_ROWS = 256
TOLERANCE = 1e-5  # a wrong neighbor costs 1e-4 and more; near-ties in float32 cost nothing
HOST = not torch.cuda.is_available()  # faiss-cpu and NumPy are what a user without a GPU would reach for
NOTES = [
    "blocks: mm of 1024 queries at a time, abs, topk. preallocated: 256 at a time into buffers that are kept.",
    "faiss: IndexFlatIP, filled anew as the keys are; by magnitude searched for q and −q, the 2k merged.",
]
if faiss is None:
    NOTES.append("faiss is not installed (pip install faiss-cpu): left out.")
Run = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Shape:
    """B of N queries of d features against N keys, k wanted by "magnitude" or "signed"; with d = 0 an (N, N) matrix."""

    n: int
    d: int
    b: int
    k: int
    order: str = "magnitude"

    @property
    def signed(self) -> bool:
        return self.order == "signed"


def shapes(quick: bool) -> list[Shape]:
    if quick:
        return [Shape(n, d, n, 5) for n in (128, 256) for d in (0, 16)] + [Shape(128, 16, 32, 5, "signed")]
    products = [Shape(10_000, 64, 10_000, 10), Shape(20_000, 128, 20_000, 20), Shape(50_000, 64, 50_000, 50)]
    products += [replace(shape, order="signed") for shape in products]
    products += [Shape(2500, 64, 2500, 10), Shape(50_000, 64, 256, 10), Shape(50_000, 64, 256, 50)]
    return products + [Shape(n, 0, n, k) for k in (10, 50) for n in (2048, 8192)]


def tiny(shape: Shape) -> Shape:
    """The same at the size at which the memory measurement warms up."""
    return replace(shape, n=64, b=64, k=4)


def panel(which: str, shape: Shape) -> str | None:
    """Title of the plot's panel in which a result stands, if it is shown."""
    if shape.signed or shape.b != shape.n:
        return None
    return f"{'matrix' if shape.d == 0 else f'd = {shape.d}'}, k = {shape.k}"


class Inputs:
    """Queries and keys, or a matrix, and the rows of a few batches."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)
        self.shape = shape
        columns = shape.d or shape.n
        self.Q = torch.randn(shape.n, columns, generator=random).div_(columns**0.5).to(device)
        self.K = torch.randn(shape.n, shape.d, generator=random).div_(columns**0.5).to(device) if shape.d else None
        whole = shape.b == shape.n
        order = torch.arange(shape.n) if whole else torch.randperm(shape.n, generator=random)
        self.rows = [rows.to(device) for rows in order[: BATCHES * shape.b].split(shape.b)]
        # Gathering a batch's queries is nobody's work here: they come as an encoder would give them.
        self.queries = [self.Q] if whole or self.K is None else [self.Q[rows] for rows in self.rows]

    def batch(self, i: int) -> tuple[Tensor, Tensor]:
        return self.queries[i % len(self.queries)], self.rows[i % len(self.rows)]

    def checked(self) -> Tensor:
        """Positions in batch 0 that are compared: all of it, or 256 spread over a large one."""
        b = self.shape.b
        return torch.linspace(0, b - 1, min(b, CHECKED_ROWS), dtype=torch.float64).long().to(self.Q.device)


def ours(inputs: Inputs, i: int) -> tuple[Tensor, Tensor]:
    Q, rows = inputs.batch(i)
    if inputs.K is None:
        return dsc_ext.topk_coefficients(Q, inputs.shape.k, signed=inputs.shape.signed)
    return dsc_ext.topk_coefficients((Q, inputs.K), inputs.shape.k, rows=rows, signed=inputs.shape.signed)


def blocks(inputs: Inputs, i: int) -> tuple[Tensor, Tensor]:
    Q, rows = inputs.batch(i)
    assert inputs.K is not None
    found = []
    for queries, own in zip(Q.split(1024), rows.split(1024), strict=True):
        scores = (queries @ inputs.K.T).scatter_(1, own[:, None], float("-inf") if inputs.shape.signed else 0.0)
        best = (scores if inputs.shape.signed else scores.abs()).topk(inputs.shape.k).indices
        found.append((scores.gather(1, best), best))
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def preallocated(inputs: Inputs, i: int) -> tuple[Tensor, Tensor]:
    Q, rows = inputs.batch(i)
    K, k, b = inputs.K, inputs.shape.k, Q.shape[0]
    assert K is not None
    step = min(256, b)
    scores, magnitudes = K.new_empty(step, K.shape[0]), K.new_empty(step, K.shape[0])
    values, indices = Q.new_empty(b, k), rows.new_empty(b, k)
    for begin in range(0, b, step):
        here = slice(begin, min(begin + step, b))
        part, size = scores[: min(step, b - begin)], magnitudes[: min(step, b - begin)]
        torch.mm(Q[here], K.T, out=part).scatter_(1, rows[here, None], float("-inf") if inputs.shape.signed else 0.0)
        best = torch.topk(part if inputs.shape.signed else torch.abs(part, out=size), k).indices
        torch.gather(part, 1, best, out=values[here])
        indices[here] = best
    return values, indices


def faiss_flat(inputs: Inputs, i: int) -> tuple[Tensor, Tensor]:
    Q, rows = inputs.batch(i)
    assert inputs.K is not None
    k = inputs.shape.k
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(inputs.K.shape[1])
    index.add(inputs.K.numpy())
    found = [index.search(Q.numpy(), k + 1)]  # one more, for the sample itself
    if not inputs.shape.signed:
        found.append(index.search(-Q.numpy(), k + 1))
    scores, columns = (torch.from_numpy(np.concatenate(part, axis=1)) for part in zip(*found, strict=True))
    best = scores.masked_fill(columns == rows[:, None], float("-inf")).topk(k).indices
    values = scores.gather(1, best)
    return (values if inputs.shape.signed else torch.where(best > k, -values, values)), columns.gather(1, best)


def topk(inputs: Inputs, i: int) -> tuple[Tensor, Tensor]:
    C = inputs.Q
    size = (C.clone() if inputs.shape.signed else C.abs()).fill_diagonal_(float("-inf"))
    best = size.topk(inputs.shape.k).indices
    return C.gather(1, best), best


def argpartition(inputs: Inputs, i: int) -> tuple[Tensor, Tensor]:
    C, k = inputs.Q.numpy(), inputs.shape.k
    size = C.copy() if inputs.shape.signed else np.abs(C)
    np.fill_diagonal(size, -np.inf)
    part = np.argpartition(size, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(size, part, 1), axis=1)
    best = np.take_along_axis(part, order, 1)
    return torch.from_numpy(np.take_along_axis(C, best, 1)), torch.from_numpy(best)


RUNS = {
    "ours": ours, "blocks": blocks, "preallocated": preallocated, "faiss": faiss_flat,
    "topk": topk, "argpartition": argpartition,
}  # fmt: skip


def names(which: str, shape: Shape, compiled: bool) -> list[str]:
    """The variants of a shape."""
    if shape.d == 0:
        return ["topk", *(["argpartition"] if HOST else []), "ours"]
    return ["blocks", "preallocated", *(["faiss"] if HOST and faiss else []), "ours"]


def build(name: str, which: str, shape: Shape, inputs: Inputs, own: bool = False) -> Run:
    """The variant of that name, bound to the inputs; none of them keeps anything."""
    return lambda i: RUNS[name](inputs, i)


def expected(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The checked rows' scores in float64, and which sample each is."""
    Q, rows = inputs.batch(0)
    at = inputs.checked()
    if inputs.K is None:
        return Q[rows[at]].double(), rows[at]
    return Q[at].double() @ inputs.K.double().T, rows[at]


def error(inputs: Inputs, run: Run, wanted: tuple[Tensor, Tensor]) -> float:
    """The larger relative error of a variant's values and of what its indices stand for."""
    values, indices = (part[inputs.checked()] for part in run(0))
    exact, own = wanted
    looked_up = exact.gather(1, indices)
    if (indices == own[:, None]).any() or (indices.sort(dim=1).values.diff(dim=1) == 0).any():
        return float("inf")
    others = exact.scatter(1, own[:, None], float("-inf") if inputs.shape.signed else 0.0)
    size = (lambda x: x) if inputs.shape.signed else torch.abs
    best = size(others).topk(inputs.shape.k).values
    return max(relative_error(size(looked_up), best), relative_error(values, looked_up))


def least_work(which: str, shape: Shape) -> tuple[int, int]:
    """(bytes, FLOP): each query, key or coefficient read once, values and indices written."""
    written = 12 * shape.b * shape.k
    if shape.d == 0:
        return 4 * shape.b * shape.n + written, 0
    return 4 * (shape.b + shape.n) * shape.d + written, 2 * shape.b * shape.n * shape.d
