"""The ops dsc_ext.ridge_on_support, elastic_net_on_support and omp_on_support against PyTorch and scikit-learn.

Owns the inputs, the variants, what they must give and the least work they can do. Knows nothing of timing. Samples are
unit rows near a union of 20 subspaces; a row's support is its k nearest by |cosine|. Every variant is called with the
number of a batch of B rows and gives their coefficients (B, k). A pass is one op: ridge with λ = 0.1, the elastic net
with λ1 = 0.05 and λ2 = 0.01, orthogonal matching pursuit of 10 atoms.

Ways to write it without this package. All begin with `gram`: in blocks of 64 rows the atoms are gathered and multiplied
by PyTorch's batched product, into buffers that are kept. Ridge: `cholesky` factors and solves a block at once. Elastic
net: `lars` is scikit-learn's homotopy on each row's Gram matrix, `descent` its coordinate descent. (A proximal gradient
on all rows of a block at once needs thousands of steps on neighbors this close; it is not among them.) Pursuit: `omp`
is scikit-learn's on each row's Gram matrix, `batched` does the steps of a block's rows at once and solves by PyTorch's
Cholesky. scikit-learn is imported where it is used, so that the processes which measure the others' memory start
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from ceilings import relative_error
from torch import Tensor

import dsc_ext

PASSES = ("ridge", "elastic net", "omp")
CHECKED_ROWS = 128
TOLERANCE = 1e-3
SUBSPACES, DIMENSION, NOISE = 20, 6, 0.3
LAM, L1, L2, ATOMS = 0.1, 0.05, 0.01, 10
BLOCK = 64
NOTES = (f"λ = {LAM}; λ1 = {L1}, λ2 = {L2}; {ATOMS} atoms. scikit-learn takes a row at a time, in float64 inside.",)
Run = Callable[[int], Tensor]


@dataclass(frozen=True)
class Shape:
    """B of N samples of d features, each on a support of k others."""

    n: int
    d: int
    k: int
    b: int


def shapes(quick: bool) -> list[Shape]:
    if quick:
        return [Shape(n, 32, 12, 64) for n in (128, 256)]
    wide = [Shape(10_000, d, k, 256) for d, k in ((128, 50), (500, 20), (500, 50), (500, 200))]
    return [*wide, Shape(2500, 128, 50, 256)]


def tiny(shape: Shape) -> Shape:
    """The same at the size at which the memory measurement warms up."""
    return replace(shape, n=64, k=min(shape.k, 12), b=16)


def panel(which: str, shape: Shape) -> str | None:
    """Title of the plot's panel in which a result stands, if it is shown."""
    return f"{which}, d = {shape.d}, k = {shape.k}" if (shape.d, shape.k) in ((32, 12), (128, 50)) else None


class Inputs:
    """The samples, their supports, and the rows of a few batches."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)
        self.shape = shape
        bases = torch.randn(SUBSPACES, DIMENSION, shape.d, generator=random) / shape.d**0.5
        group = torch.randint(SUBSPACES, (shape.n,), generator=random)
        weights = torch.randn(shape.n, DIMENSION, generator=random) / DIMENSION**0.5
        X = torch.cat(
            [torch.einsum("nr,nrd->nd", w, bases[g]) for w, g in zip(weights.split(500), group.split(500), strict=True)]
        )
        X += NOISE * torch.randn(X.shape, generator=random) / shape.d**0.5
        self.X = (X / X.norm(dim=1, keepdim=True)).to(device)
        order = torch.randperm(shape.n, generator=random).to(device)
        self.batches = [
            (self.X[rows], dsc_ext.topk_coefficients((self.X[rows], self.X), shape.k, rows=rows)[1])
            for rows in order.split(shape.b)[: shape.n // shape.b]
        ]
        # What careful code keeps from call to call.
        step = min(BLOCK, shape.b)
        self.atoms = self.X.new_empty(step * shape.k, shape.d)
        self.products = self.X.new_empty(step, shape.k, shape.k)

    def batch(self, i: int) -> tuple[Tensor, Tensor]:
        return self.batches[i % len(self.batches)]

    def checked(self) -> Tensor:
        """Positions in batch 0 that are compared."""
        b = self.shape.b
        return torch.linspace(0, b - 1, min(b, CHECKED_ROWS), dtype=torch.float64).long().to(self.X.device)


def gram(inputs: Inputs, i: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Gram matrices and products with the target, a block of rows at a time; the next block overwrites them."""
    Q, indices = inputs.batch(i)
    k = inputs.shape.k
    for q, columns in zip(Q.split(BLOCK), indices.split(BLOCK), strict=True):
        atoms = torch.index_select(inputs.X, 0, columns.reshape(-1), out=inputs.atoms[: columns.numel()])
        atoms = atoms.view(-1, k, inputs.shape.d)
        yield torch.bmm(atoms, atoms.mT, out=inputs.products[: q.shape[0]]), torch.bmm(atoms, q[:, :, None])


def cholesky(inputs: Inputs, i: int) -> Tensor:
    found = []
    for G, g in gram(inputs, i):
        G.diagonal(dim1=1, dim2=2).add_(LAM)
        found.append(torch.cholesky_solve(g, torch.linalg.cholesky_ex(G)[0])[..., 0])
    return torch.cat(found)


def each_row(inputs: Inputs, i: int, solver: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Tensor:
    found = [
        solver(G, g[:, 0])
        for some_G, some_g in gram(inputs, i)
        for G, g in zip(some_G.double().cpu().numpy(), some_g.double().cpu().numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(found)).to(inputs.X.device)


def lars_of(G: np.ndarray, g: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import lars_path_gram

    path = lars_path_gram(
        g, G + L2 * np.eye(len(g)), n_samples=1, method="lasso", alpha_min=L1, return_path=False, copy_X=False
    )
    return path[2]


def descent_of(G: np.ndarray, g: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import enet_path

    # enet_path wants samples too, of which it reads no more than the target's norm with the products given.
    unread = np.zeros((1, len(g)), order="F")
    return enet_path(
        unread, np.ones(1), l1_ratio=L1 / (L1 + L2), alphas=[L1 + L2], precompute=np.ascontiguousarray(G), Xy=g,
        tol=1e-12, max_iter=100_000, check_input=False, copy_X=False,
    )[1][:, 0]  # fmt: skip


def omp_of(G: np.ndarray, g: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import orthogonal_mp_gram

    return orthogonal_mp_gram(G, g, n_nonzero_coefs=ATOMS, copy_Gram=False, copy_Xy=False)


def batched(inputs: Inputs, i: int) -> Tensor:
    found = []
    for G, g in gram(inputs, i):
        rows = torch.arange(G.shape[0], device=G.device)[:, None]
        chosen = rows[:, :0]
        residual = g[..., 0].clone()
        for _ in range(ATOMS):
            best = residual.abs().scatter_(1, chosen, -1.0).argmax(1, keepdim=True)
            chosen = torch.cat((chosen, best), dim=1)
            inner = G[rows[:, :, None], chosen[:, :, None], chosen[:, None, :]]
            c = torch.cholesky_solve(g[rows, chosen], torch.linalg.cholesky_ex(inner)[0])
            residual = (g - torch.bmm(G[rows, chosen].mT, c))[..., 0]
        found.append(torch.zeros_like(residual).scatter_(1, chosen, c[..., 0]))
    return torch.cat(found)


RUNS: dict[str, Callable[[Inputs, int], Tensor]] = {
    "cholesky": cholesky,
    "lars": lambda inputs, i: each_row(inputs, i, lars_of),
    "descent": lambda inputs, i: each_row(inputs, i, descent_of),
    "omp": lambda inputs, i: each_row(inputs, i, omp_of),
    "batched": batched,
}


def ours(which: str, inputs: Inputs, i: int) -> Tensor:
    Q, indices = inputs.batch(i)
    if which == "ridge":
        return dsc_ext.ridge_on_support(inputs.X, indices, LAM, Q=Q)
    if which == "omp":
        return dsc_ext.omp_on_support(inputs.X, indices, ATOMS, Q=Q)
    return dsc_ext.elastic_net_on_support(inputs.X, indices, L1, L2, Q=Q)


def names(which: str, shape: Shape, compiled: bool) -> list[str]:
    """The variants of a shape."""
    others = {"ridge": ["cholesky"], "elastic net": ["lars", "descent"], "omp": ["omp", "batched"]}
    return [*others[which], "ours"]


def build(name: str, which: str, shape: Shape, inputs: Inputs, own: bool = False) -> Run:
    """The variant of that name, bound to the inputs; `ours` keeps nothing, the others the inputs' buffers."""
    run = lambda i: ours(which, inputs, i) if name == "ours" else RUNS[name](inputs, i)  # noqa: E731
    run.which = which  # type: ignore[attr-defined]
    return run


def expected(inputs: Inputs) -> dict[str, Tensor]:
    """Of the checked rows in float64: ridge by a direct solver, the others by scikit-learn."""
    Q, indices = (part[inputs.checked()].cpu() for part in inputs.batch(0))
    atoms = inputs.X.cpu().double()[indices]
    G, g = atoms @ atoms.mT, (atoms @ Q.double()[:, :, None])[..., 0]
    pairs = list(zip(G.numpy(), g.numpy(), strict=True))
    wanted = {
        "ridge": torch.cholesky_solve(g[..., None], torch.linalg.cholesky(G + LAM * torch.eye(G.shape[1])))[..., 0],
        "elastic net": torch.from_numpy(np.stack([lars_of(*pair) for pair in pairs])),
        "omp": torch.from_numpy(np.stack([omp_of(*pair) for pair in pairs])),
    }
    return {which: c.to(inputs.X.device) for which, c in wanted.items()}


def error(inputs: Inputs, run: Run, wanted: dict[str, Tensor]) -> float:
    which = run.which  # type: ignore[attr-defined]
    return relative_error(run(0)[inputs.checked()], wanted[which])


def least_work(which: str, shape: Shape) -> tuple[int, int]:
    """(bytes, FLOP): each sample named, each target and each index read once; half of a Gram matrix multiplied."""
    b, k, d = shape.b, shape.k, shape.d
    factor = k**3 // 3 if which == "ridge" else 0
    return 4 * (b + min(shape.n, b * k)) * d + 12 * b * k, b * (k * (k + 3) * d + factor)
