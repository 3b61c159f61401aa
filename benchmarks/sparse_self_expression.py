"""The ops dsc_ext.sparse_self_expression and its fused step on all rows, against PyTorch and SciPy.

Owns the inputs, the variants, what they must give and the least work they can do. Knows nothing of timing. The columns
are drawn at random (nothing is worse for a cache), none of them the row's own. Forward gives (Ẑ,), forward+backward
(Ẑ, ∂/∂values, ∂/∂M); step is given ∂/∂Ẑ and gives the values and both moments after Adam.

Ways to write it without this package: `embedding_bag`, PyTorch's fused gather and weighted sum (FBGEMM on a CPU), under
autograd where gradients are wanted; `csr`, torch.sparse (MKL on a CPU), its gradients by hand from sampled_addmm and
the transposed product; `scipy` (on a CPU), a CSR product by SciPy. `by_hand` takes of each the piece that is fastest:
embedding_bag forward, sampled_addmm, SciPy's CSC product. The steps end in PyTorch's fused Adam, all rows at once,
`sampled` with the gradient from sampled_addmm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from baselines import BETAS, EPS
from ceilings import relative_error
from scipy import sparse
from torch import Tensor
from torch.nn.functional import embedding_bag

import dsc_ext

PASSES = ("forward", "forward+backward", "step")
CHECKED_ROWS = 256
LR = 1e-3
TOLERANCE = 1e-3  # of a step: where a gradient nearly vanishes, Adam goes by its sign alone
NAIVE_NUMBERS = 100_000_000  # N·k·d above which the naive variant's temporaries fill a small machine
NOTES = ("The naive variant holds N × k × d numbers and several copies of them; beyond 10⁸ it is left out.",)
Run = Callable[[int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Shape:
    """N samples, k coefficients a row, d latent dimensions."""

    n: int
    k: int
    d: int


def shapes(quick: bool) -> list[Shape]:
    if quick:
        return [Shape(n, 5, 16) for n in (128, 256)]
    return [Shape(n, k, d) for n in (10_000, 100_000) for k in (10, 50) for d in (64, 128)] + [Shape(1_000_000, 10, 64)]


def tiny(shape: Shape) -> Shape:
    """The same at the size at which the memory measurement warms up."""
    return replace(shape, n=64, k=min(shape.k, 5))


def panel(which: str, shape: Shape) -> str | None:
    """Title of the plot's panel in which a result stands, if it is shown."""
    return f"{which}, k = {shape.k}, d = {shape.d}" if (shape.k, shape.d) in ((5, 16), (10, 64)) else None


class Inputs:
    """Coefficients in the forms the variants want them, a bank, and the gradient of Ẑ."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)
        n, k, d = shape.n, shape.k, shape.d
        self.device = device
        self.values = torch.randn(n, k, generator=random).div_(k**0.5).to(device)
        drawn = torch.randint(n - 1, (n, k), generator=random)
        self.indices = (drawn + (drawn >= torch.arange(n)[:, None])).to(device)
        self.M = torch.randn(n, d, generator=random).to(device)
        self.G = torch.randn(n, d, generator=random).to(device)
        self.crow = torch.arange(n + 1, device=device) * k

    def csr(self) -> Tensor:
        n = self.values.shape[0]
        column, data = self.indices.reshape(-1), self.values.reshape(-1)
        return torch.sparse_csr_tensor(self.crow, column, data, (n, n), check_invariants=False)

    def scipy_csr(self) -> sparse.csr_matrix:
        n, k = self.values.shape
        column, crow = self.indices.numpy().ravel().astype(np.int32), (np.arange(n + 1) * k).astype(np.int32)
        return sparse.csr_matrix((self.values.numpy().ravel(), column, crow), shape=(n, n))

    def checked(self) -> Tensor:
        n = self.values.shape[0]
        return torch.linspace(0, n - 1, min(n, CHECKED_ROWS), dtype=torch.float64).long().to(self.device)


def gathered(values: Tensor, indices: Tensor, M: Tensor) -> Tensor:
    return (values[..., None] * M[indices]).sum(1)


def bag(values: Tensor, indices: Tensor, M: Tensor) -> Tensor:
    return embedding_bag(indices, M, per_sample_weights=values, mode="sum")


def autograd_of(function: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Inputs, which: str) -> Run:
    def run(_: int) -> tuple[Tensor, ...]:
        if which == "forward":
            return (function(inputs.values, inputs.indices, inputs.M),)
        values, M = inputs.values.detach().requires_grad_(), inputs.M.detach().requires_grad_()
        Z_hat = function(values, inputs.indices, M)
        return Z_hat.detach(), *torch.autograd.grad(Z_hat, (values, M), inputs.G)

    return run


def by_library(name: str, inputs: Inputs, which: str) -> Run:
    """The product and its two gradients without autograd, each by the named library."""
    csr = inputs.csr()
    csc = inputs.scipy_csr() if name != "csr" else None

    def run(_: int) -> tuple[Tensor, ...]:
        if name == "csr":
            Z_hat = csr @ inputs.M
        elif name == "scipy":
            Z_hat = torch.from_numpy(csc @ inputs.M.numpy())
        else:
            Z_hat = bag(inputs.values, inputs.indices, inputs.M)
        if which == "forward":
            return (Z_hat,)
        dvalues = torch.sparse.sampled_addmm(csr, inputs.G, inputs.M.T, beta=0.0).values().view_as(inputs.values)
        return Z_hat, dvalues, csr.t() @ inputs.G if csc is None else torch.from_numpy(csc.T @ inputs.G.numpy())

    return run


class Stepped:
    """∂/∂values from ∂/∂Ẑ, then Adam; every call goes on from where the last one stopped."""

    def __init__(self, name: str, inputs: Inputs) -> None:
        self.inputs = inputs
        self.values = inputs.values.clone()
        self.m, self.v = torch.zeros_like(self.values), torch.zeros_like(self.values)
        n = self.values.shape[0]
        if name == "ours":
            self.count = torch.zeros(n, dtype=torch.int64, device=inputs.device)
            self.step: Callable[[], object] = self.ours
        else:
            self.count = torch.zeros((), device=inputs.device)
            self.csr = inputs.csr()
            self.step = lambda: self.adam(getattr(self, name)())

    def __call__(self, _: int) -> tuple[Tensor, ...]:
        self.step()
        return self.values, self.m, self.v

    def ours(self) -> None:
        dsc_ext.sparse_self_expression_step_(
            self.values, self.inputs.indices, self.m, self.v, self.count, self.inputs.G, self.inputs.M,
            lr=LR, betas=BETAS, eps=EPS,
        )  # fmt: skip

    def naive(self) -> Tensor:
        return (self.inputs.G[:, None, :] * self.inputs.M[self.inputs.indices]).sum(2)

    def embedding_bag(self) -> Tensor:
        leaf = self.values.detach().requires_grad_()
        return torch.autograd.grad(bag(leaf, self.inputs.indices, self.inputs.M), leaf, self.inputs.G)[0]

    def sampled(self) -> Tensor:
        # The values take no part in it, so the matrix need not follow them.
        dots = torch.sparse.sampled_addmm(self.csr, self.inputs.G, self.inputs.M.T, beta=0.0)
        return dots.values().view_as(self.values)

    def adam(self, grad: Tensor) -> None:
        self.count.add_(1)
        torch._fused_adam_(
            [self.values], [grad], [self.m], [self.v], [], [self.count], lr=LR, beta1=BETAS[0], beta2=BETAS[1],
            eps=EPS, weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip


def names(which: str, shape: Shape, compiled: bool) -> list[str]:
    """The variants of a shape."""
    naive = ["naive"] if shape.n * shape.k * shape.d <= NAIVE_NUMBERS else []
    if which == "step":
        return [*naive, "embedding_bag", "sampled", "ours"]
    on_host = [] if torch.cuda.is_available() else ["scipy"] if which == "forward" else ["by_hand"]
    return [*naive, "embedding_bag", "csr", *on_host, "ours"]


def build(name: str, which: str, shape: Shape, inputs: Inputs, own: bool = False) -> Run:
    """The variant of that name, bound to the inputs."""
    if which == "step":
        return Stepped(name, inputs)
    if name == "ours":
        return autograd_of(dsc_ext.sparse_self_expression, inputs, which)
    if name in ("naive", "embedding_bag"):
        return autograd_of(gathered if name == "naive" else bag, inputs, which)
    return by_library(name, inputs, which)


def expected(inputs: Inputs) -> dict[str, Tensor]:
    """Of the checked rows, in float64."""
    at = inputs.checked()
    values, rows = inputs.values[at].double(), inputs.M[inputs.indices[at]].double()
    grad = (inputs.G[at].double()[:, None, :] * rows).sum(2)
    # Who names a checked row, for its gradient.
    position = torch.full((inputs.M.shape[0],), -1, dtype=torch.int64, device=inputs.device)
    position[at] = torch.arange(at.shape[0], device=inputs.device)
    owner = position[inputs.indices]
    b, s = (owner >= 0).nonzero(as_tuple=True)
    terms = inputs.values[b, s].double()[:, None] * inputs.G[b].double()
    m, v = (1 - BETAS[0]) * grad, (1 - BETAS[1]) * grad**2
    moved = LR / (1 - BETAS[0]) * m / ((v / (1 - BETAS[1])).sqrt() + EPS)
    return {
        "Ẑ": (values[..., None] * rows).sum(1),
        "grad": grad,
        "dM": torch.zeros(at.shape[0], terms.shape[1], dtype=terms.dtype, device=inputs.device).index_add_(
            0, owner[b, s], terms
        ),
        "values": values - moved,
        "m": m,
        "v": v,
    }


def error(inputs: Inputs, run: Run, wanted: dict[str, Tensor]) -> float:
    """The largest relative error among a variant's tensors."""
    found = run(0)
    of = ("values", "m", "v") if isinstance(run, Stepped) else ("Ẑ", "grad", "dM")
    at = inputs.checked()
    return max(relative_error(tensor[at], wanted[name]) for tensor, name in zip(found, of, strict=False))


def least_work(which: str, shape: Shape) -> tuple[float, float]:
    """Coefficients, columns (8 bytes), bank and result once each, though no cache may hold the bank; the products."""
    n, k, d = shape.n, shape.k, shape.d
    entries, rows, flop = 12 * n * k, 4 * n * d, 2 * n * k * d
    if which == "forward":
        return entries + 2 * rows, flop
    if which == "step":
        return 32 * n * k + 2 * rows, flop
    return 3 * entries + 5 * rows, 3 * flop
