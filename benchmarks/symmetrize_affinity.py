"""The op dsc_ext.symmetrize_affinity, from CSR, from (N, k) with indices and from a dense C, against SciPy and PyTorch.

Owns the inputs, the variants, what they must give and the least work they can do. Knows nothing of timing. Every
variant gives W as (crow, column, values) with sorted columns in int64, the form PyTorch's CSR has; checked against
float64 by its lengths of rows and by its product with a few random columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
import torch
from ceilings import relative_error
from torch import Tensor

import dsc_ext

PASSES = ("forward",)
TOLERANCE = 1e-5
HOST = not torch.cuda.is_available()
NOTES = [
    "scipy: (abs(C) + abs(C).T) / 2, indices int64 as in W; sorted first where they come unsorted.",
    "naive: PyTorch, both directions coalesced; from dense (C.abs() + C.abs().T) / 2 to CSR.",
]
Run = Callable[[int], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Shape:
    """N rows of k entries: ``order`` is "sorted" CSR, one with a "hub" every row names, "unsorted", or "dense"."""

    n: int
    k: int
    order: str


def shapes(quick: bool) -> list[Shape]:
    if quick:
        return [Shape(n, 5, order) for n in (128, 256) for order in ("sorted", "hub", "unsorted", "dense")]
    found = [Shape(n, k, "sorted") for k in (5, 10, 50) for n in (10_000, 100_000)]
    found += [Shape(n, 10, order) for order in ("hub", "unsorted") for n in (10_000, 100_000)]
    return found + [Shape(n, n // parts, "dense") for parts in (100, 10, 1) for n in (2048, 8192)]


def tiny(shape: Shape) -> Shape:
    """The same at the size at which the memory measurement warms up."""
    return replace(shape, n=64, k=4)


def panel(which: str, shape: Shape) -> str | None:
    """Title of the plot's panel in which a result stands, if it is shown."""
    if shape.order == "dense":
        return f"dense, {100 * shape.k / shape.n:.0f} %" if shape.n > 256 else None
    return f"{shape.order}, k = {shape.k}"


class Inputs:
    """C in its form; and in float64, for the check."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)
        n, k = shape.n, shape.k
        self.shape = shape
        self.X = torch.randn(n, 3, generator=random, dtype=torch.float64)
        if shape.order == "dense":
            C = torch.randn(n, n, generator=random)
            self.C = C.masked_fill_(torch.rand(n, n, generator=random) >= k / n, 0.0).to(device)
            return
        column = torch.randint(n, (n, k), generator=random)
        if shape.order == "hub":
            column[:, 0] = n // 2
        values = torch.randn(n, k, generator=random)
        C = scipy.sparse.csr_array((values.numpy().ravel(), column.numpy().ravel(), np.arange(n + 1) * k), shape=(n, n))
        C.sum_duplicates()
        C = scipy.sparse.csr_array((C.data, C.indices.astype(np.int64), C.indptr.astype(np.int64)), shape=(n, n))
        self.scipy = C
        self.crow, self.column, self.values = (torch.from_numpy(a).to(device) for a in (C.indptr, C.indices, C.data))
        if shape.order == "unsorted":  # by falling magnitude, as topk_coefficients gives them
            order = torch.argsort(values.abs(), dim=1, descending=True)
            self.indices, self.padded = column.gather(1, order).to(device), values.gather(1, order).to(device)
        else:
            self.csr = torch.sparse_csr_tensor(self.crow, self.column, self.values, (n, n), check_invariants=False)


def parts(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return W.crow_indices(), W.col_indices(), W.values()


def ours(inputs: Inputs, i: int) -> tuple[Tensor, Tensor, Tensor]:
    if inputs.shape.order == "dense":
        return parts(dsc_ext.symmetrize_affinity(inputs.C))
    if inputs.shape.order == "unsorted":
        return parts(dsc_ext.symmetrize_affinity(inputs.padded, inputs.indices))
    return parts(dsc_ext.symmetrize_affinity(inputs.csr))


def with_scipy(inputs: Inputs, i: int) -> tuple[Tensor, Tensor, Tensor]:
    n = inputs.shape.n
    if inputs.shape.order == "dense":
        A = abs(scipy.sparse.csr_array(inputs.C.numpy()))
    elif inputs.shape.order == "unsorted":
        k = inputs.shape.k
        magnitude, indices = inputs.padded.abs().numpy().ravel(), inputs.indices.numpy().ravel().copy()
        A = scipy.sparse.csr_array((magnitude, indices, np.arange(n + 1) * k), shape=(n, n))
        A.sum_duplicates()
    else:
        C = inputs.scipy
        A = scipy.sparse.csr_array((np.abs(C.data), C.indices, C.indptr), shape=(n, n))
        A.has_canonical_format = True
    W = A + A.T
    W.data *= 0.5
    return tuple(torch.from_numpy(a) for a in (W.indptr, W.indices, W.data))  # type: ignore[return-value]


def coalesced(inputs: Inputs, i: int) -> tuple[Tensor, Tensor, Tensor]:
    n = inputs.shape.n
    if inputs.shape.order == "dense":
        return parts(((inputs.C.abs() + inputs.C.abs().T) / 2).to_sparse_csr())
    if inputs.shape.order == "unsorted":
        column, magnitude = inputs.indices.reshape(-1), inputs.padded.abs().reshape(-1) / 2
        row = torch.arange(n, device=column.device).repeat_interleave(inputs.shape.k)
    else:
        column, magnitude = inputs.column, inputs.values.abs() / 2
        row = torch.arange(n, device=column.device).repeat_interleave(inputs.crow.diff())
    both = torch.stack([torch.cat([row, column]), torch.cat([column, row])])
    return parts(
        torch.sparse_coo_tensor(both, magnitude.repeat(2), (n, n), check_invariants=False).coalesce().to_sparse_csr()
    )


def names(which: str, shape: Shape, compiled: bool) -> list[str]:
    return ["naive", "scipy", "ours"] if HOST else ["coalesce", "ours"]


def build(name: str, which: str, shape: Shape, inputs: Inputs, own: bool = False) -> Run:
    function = {"ours": ours, "scipy": with_scipy, "naive": coalesced, "coalesce": coalesced}[name]
    return lambda i: function(inputs, i)


def expected(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """W X, and the length of each row of W."""
    if inputs.shape.order == "dense":
        A = scipy.sparse.csr_array(inputs.C.cpu().numpy())
    elif inputs.shape.order == "unsorted":
        n, k = inputs.indices.shape
        flat = inputs.padded.abs().double().cpu().numpy().ravel(), inputs.indices.cpu().numpy().ravel().copy()
        A = scipy.sparse.csr_array((*flat, np.arange(n + 1) * k), shape=(n, n))
        A.sum_duplicates()
    else:
        A = inputs.scipy
    A = abs(A.astype(np.float64))
    X = inputs.X.numpy()
    one = A.astype(bool)
    return torch.from_numpy(A @ X + A.T @ X) / 2, torch.from_numpy(np.diff((one + one.T).indptr))


def error(inputs: Inputs, run: Run, wanted: tuple[Tensor, Tensor]) -> float:
    crow, column, values = (tensor.cpu() for tensor in run(0))
    n = inputs.shape.n
    W = scipy.sparse.csr_array((values.double().numpy(), column.numpy(), crow.numpy()), shape=(n, n))
    if not torch.equal(crow.diff(), wanted[1].to(crow.dtype)) or not W.has_sorted_indices:
        return float("inf")
    return relative_error(torch.from_numpy(W @ inputs.X.numpy()), wanted[0])


def least_work(which: str, shape: Shape) -> tuple[float, float]:
    """Bytes: the entries read once, the expected places of W written once, 12 each; all of a dense C."""
    n, share = shape.n, shape.k / shape.n
    places = n * n * (1 - (1 - share) ** 2)
    return (4 * n * n if shape.order == "dense" else 12 * n * shape.k) + 12 * places, 0.0
