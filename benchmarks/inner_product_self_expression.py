"""The op dsc_ext.inner_product_self_expression, forward and forward with backward, against plain PyTorch.

Owns the inputs, the variants, what they must give and the least work they can do. Knows nothing of timing. Every
variant gives (Ẑ, ‖c‖₁, ‖c‖₂²) or those and (∂/∂Q, ∂/∂K, ∂/∂V, ∂/∂threshold); with φ the identity there is neither ‖c‖₁
nor a threshold.

Ways to write it without this package, all with the gradient by hand, five products a tile: `tiled R×C` works in place
on preallocated tiles of R queries by C samples, which stay in the cache; `keops`, where it is installed and --compile
is given, is KeOps's formula with its own gradients. `naive` is SENet's code: all of C, and autograd over it. For φ the
identity `linear` takes the linear-time products by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
from ceilings import relative_error
from torch import Tensor

import dsc_ext

PASSES = ("forward", "forward+backward")
TOLERANCE = 1e-4  # a forgotten diagonal costs more: each query's own score is the largest of its row
THRESHOLD = 0.15
TILES = ((256, 1024), (512, 1024), (512, 2048))
MOST_FOR_NAIVE = 10_000**2  # numbers in C; several copies of it are alive at once
MOST_FOR_THRESHOLD = 10_000**2  # pairs over which the threshold's gradient is summed in float64
CHECKED = 256
ROUNDING = 1e-6  # of a score near the threshold, in float32
NOTES = ("N = 50,000: the threshold's gradient is not compared, for it takes every pair in float64.",)
Results = tuple[Tensor, ...]
Run = Callable[[int], Results]


@dataclass(frozen=True)
class Shape:
    """N samples, dq = dv = d, B queries: samples themselves, all of them in order where B = N. ``phi`` is "soft" or
    "identity".
    """

    n: int
    d: int
    b: int
    phi: str


def shapes(quick: bool) -> list[Shape]:
    if quick:
        return [Shape(n, 16, b, phi) for n in (128, 256) for b in (32, n) for phi in ("soft", "identity")]
    soft = [Shape(n, d, b, "soft") for n in (2048, 10_000) for d in (32, 64, 128) for b in (256, n)]
    large = [Shape(50_000, 64, b, "soft") for b in (256, 50_000)]
    return [*soft, *large, *(Shape(n, 64, n, "identity") for n in (10_000, 100_000, 1_000_000))]


def tiny(shape: Shape) -> Shape:
    """The same at the size at which the memory measurement warms up."""
    return replace(shape, n=64, b=64 if shape.b == shape.n else 8)


def panel(which: str, shape: Shape) -> str | None:
    """Title of the plot's panel in which a result stands, if it is shown."""
    if which == "forward" or shape.d not in (16, 64):
        return None
    return f"{which}, {shape.phi}, d = {shape.d}, B = {'N' if shape.b == shape.n else shape.b}"


class Inputs:
    """Embeddings near the unit sphere, so that about one score in eight passes the threshold at d = 64."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)

        def normal(rows: int, columns: int = shape.d) -> Tensor:
            return torch.randn(rows, columns, generator=random).div_(shape.d**0.5).to(device)

        self.soft = shape.phi == "soft"
        self.K, self.V = normal(shape.n), normal(shape.n)
        whole = shape.b == shape.n
        self.rows = None if whole else torch.randperm(shape.n, generator=random)[: shape.b].to(device)
        queries = self.K if self.rows is None else self.K[self.rows]
        self.Q = queries + 0.5 * normal(shape.b)
        self.G = normal(shape.b)
        self.G1, self.G2 = (normal(shape.b, 1)[:, 0].contiguous() for _ in range(2))
        self.threshold = torch.tensor(THRESHOLD, device=device)
        self.scale = 1.0 / shape.d

    def samples(self) -> Tensor:
        """(B,) the sample that each query is."""
        return torch.arange(self.Q.shape[0], device=self.Q.device) if self.rows is None else self.rows


def leaves(inputs: Inputs) -> list[Tensor]:
    given = [inputs.Q, inputs.K, inputs.V, *([inputs.threshold] if inputs.soft else [])]
    return [x.detach().requires_grad_() for x in given]


def ours(inputs: Inputs, gradients: bool) -> Results:
    def call(Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor | None = None) -> Results:
        Zhat, l1, l2 = dsc_ext.inner_product_self_expression(Q, K, V, threshold, inputs.scale, inputs.rows)
        return (Zhat, l2) if l1 is None else (Zhat, l1, l2)

    return autograd_of(call, inputs, gradients)


def autograd_of(call: Callable[..., Results], inputs: Inputs, gradients: bool) -> Results:
    if not gradients:
        return call(inputs.Q, inputs.K, inputs.V, *([inputs.threshold] if inputs.soft else []))
    given = leaves(inputs)
    outputs = call(*given)
    weights = (inputs.G, inputs.G1, inputs.G2) if inputs.soft else (inputs.G, inputs.G2)
    return *outputs, *torch.autograd.grad(outputs, given, weights)


def naive(inputs: Inputs, gradients: bool) -> Results:
    rows = inputs.samples()

    def call(Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor | None = None) -> Results:
        C = Q @ K.T
        if threshold is not None:
            C = torch.sign(C) * torch.relu(C.abs() - threshold)
        C = inputs.scale * C.scatter(1, rows[:, None], 0.0)
        norms = (C.square().sum(1),) if threshold is None else (C.abs().sum(1), C.square().sum(1))
        return C @ V, *norms

    return autograd_of(call, inputs, gradients)


class Tiled:
    """Tiles of ``height`` queries by ``width`` samples; φ(s) = s − clamp(s, −threshold, threshold), in place."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.buffers: list[Tensor] = []

    def buffer(self, which: int, like: Tensor, rows: int, columns: int) -> Tensor:
        while len(self.buffers) <= which:
            self.buffers.append(like.new_empty(self.height * self.width))
        return self.buffers[which][: rows * columns].view(rows, columns)

    def coefficients(self, inputs: Inputs, b: int, j: int) -> Tensor:
        """φ of a tile's scores, each query's own left out, without the scale."""
        Q, K = inputs.Q[b : b + self.height], inputs.K[j : j + self.width]
        S = torch.mm(Q, K.T, out=self.buffer(0, Q, Q.shape[0], K.shape[0]))
        if inputs.rows is None:
            low, high = max(b, j), min(b + Q.shape[0], j + K.shape[0])
            if low < high:
                S[low - b : high - b, low - j : high - j].fill_diagonal_(0.0)
        else:
            own = inputs.rows[b : b + self.height] - j
            here = ((own >= 0) & (own < K.shape[0])).nonzero()[:, 0]
            S[here, own[here]] = 0.0
        return S.sub_(torch.clamp(S, -THRESHOLD, THRESHOLD, out=self.buffer(1, S, *S.shape)))

    def forward(self, inputs: Inputs) -> Results:
        Q, K, V, scale = inputs.Q, inputs.K, inputs.V, inputs.scale
        Zhat, l1, l2 = Q.new_zeros(Q.shape[0], V.shape[1]), Q.new_zeros(Q.shape[0]), Q.new_zeros(Q.shape[0])
        for b in range(0, Q.shape[0], self.height):
            rows = slice(b, b + self.height)
            for j in range(0, K.shape[0], self.width):
                C = self.coefficients(inputs, b, j)
                Zhat[rows].addmm_(C, V[j : j + self.width], alpha=scale)
                l1[rows].add_(torch.linalg.vector_norm(C, 1, dim=1))
                l2[rows].add_(torch.linalg.vector_norm(C, 2, dim=1).square_())
        return Zhat, l1.mul_(abs(scale)), l2.mul_(scale**2)

    def backward(self, inputs: Inputs) -> Results:
        Q, K, V, G, scale = inputs.Q, inputs.K, inputs.V, inputs.G, inputs.scale
        dQ, dK, dV, dthreshold = torch.zeros_like(Q), torch.zeros_like(K), torch.zeros_like(V), Q.new_zeros(())
        G1, G2 = inputs.G1[:, None] * abs(scale), inputs.G2[:, None] * (2 * scale**2)
        for b in range(0, Q.shape[0], self.height):
            rows = slice(b, b + self.height)
            for j in range(0, K.shape[0], self.width):
                columns = slice(j, j + self.width)
                C = self.coefficients(inputs, b, j)
                dV[columns].addmm_(C.T, G[rows], alpha=scale)
                dS = torch.mm(G[rows], V[columns].T, out=self.buffer(2, C, *C.shape)).mul_(scale)
                dS.addcmul_(C, G2[rows])
                sign = torch.sign(C, out=self.buffer(1, C, *C.shape))
                dS.addcmul_(sign, G1[rows])
                dthreshold.sub_(torch.dot(dS.view(-1), sign.view(-1)))
                dS.mul_(sign.square_())
                dQ[rows].addmm_(dS, K[columns])
                dK[columns].addmm_(dS.T, Q[rows])
        return dQ, dK, dV, dthreshold

    def __call__(self, inputs: Inputs, gradients: bool) -> Results:
        return *self.forward(inputs), *(self.backward(inputs) if gradients else ())


def linear(inputs: Inputs, gradients: bool) -> Results:
    """φ(s) = s: Q (Kᵀ V) and the like, less the diagonal."""
    Q, K, V, scale, rows = inputs.Q, inputs.K, inputs.V, inputs.scale, inputs.rows
    own_K, own_V = (K, V) if rows is None else (K[rows], V[rows])
    KV, KK = K.T @ V, K.T @ K
    own = (Q * own_K).sum(1, keepdim=True)
    QKK = Q @ KK
    Zhat = (Q @ KV).addcmul_(own, own_V, value=-1).mul_(scale)
    l2 = (QKK * Q).sum(1).sub_(own[:, 0].square()).mul_(scale**2)
    if not gradients:
        return Zhat, l2
    G, G2 = inputs.G * scale, inputs.G2[:, None] * scale**2
    dKV = Q.T @ G
    down = (G * own_V).sum(1, keepdim=True).add_(2 * G2 * own).neg_()  # the gradient of the diagonal
    dQ = (G @ KV.T).addcmul_(2 * G2, QKK).addcmul_(down, own_K)
    dK = torch.mm(V, dKV.T).addmm_(K, Q.T @ (2 * G2 * Q))
    dV = K @ dKV
    if rows is None:
        dK.addcmul_(down, Q)
        dV.addcmul_(own, G, value=-1)
    else:
        dK.index_add_(0, rows, down * Q)
        dV.index_add_(0, rows, own * G, alpha=-1)
    return Zhat, l2, dQ, dK, dV


def keops(inputs: Inputs, gradients: bool) -> Results:
    from pykeops.torch import LazyTensor

    def index(values: Tensor) -> Tensor:
        return values.to(inputs.Q.dtype)[:, None].contiguous()

    i, j = index(inputs.samples()), index(torch.arange(inputs.K.shape[0], device=inputs.K.device))

    def call(Q: Tensor, K: Tensor, V: Tensor, threshold: Tensor) -> Results:
        S = (LazyTensor(Q[:, None, :]) * LazyTensor(K[None, :, :])).sum(-1)
        other = (LazyTensor(i[:, None, :]) - LazyTensor(j[None, :, :])).abs().sign()
        C = S.sign() * (S.abs() - LazyTensor(threshold.view(1, 1, 1))).relu() * other * inputs.scale
        return C @ V, C.abs().sum(1)[:, 0], (C * C).sum(1)[:, 0]

    return autograd_of(call, inputs, gradients)


def names(which: str, shape: Shape, compiled: bool) -> list[str]:
    """ "ours", "naive" where C fits, and the ways to write the best PyTorch."""
    first = ["naive"] if shape.b * shape.n <= MOST_FOR_NAIVE else []
    if shape.phi == "identity":
        return [*first, "linear", "ours"]
    tiles = TILES if shape.n <= 10_000 else TILES[1:2]
    formula = ["keops"] if compiled and find_spec("pykeops") and shape.n <= 10_000 else []
    return [*first, *(f"tiled {height}×{width}" for height, width in tiles), *formula, "ours"]


def build(name: str, which: str, shape: Shape, inputs: Inputs, own: bool = False) -> Run:
    """The variant of that name, bound to the inputs; ``own`` is of no meaning here, nobody writes to them."""
    gradients = which != "forward"
    if name.startswith("tiled"):
        height, width = map(int, name.removeprefix("tiled ").split("×"))
        tiled = Tiled(min(height, shape.b), min(width, shape.n))
        return lambda i: tiled(inputs, gradients)
    function = {"ours": ours, "naive": naive, "linear": linear, "keops": keops}[name]
    return lambda i: function(inputs, gradients)


def pairs(inputs: Inputs, queries: Tensor, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """C and ∂L/∂S of some queries and samples, in float64, and where rounding decides whether a score passes the
    threshold: there ‖c‖₁'s gradient jumps, and neither side is wrong.
    """
    Q, K, V, G, G1, G2 = (
        x.double()
        for x in (inputs.Q[queries], inputs.K[samples], inputs.V[samples],
                  inputs.G[queries], inputs.G1[queries], inputs.G2[queries])
    )  # fmt: skip
    S = (Q @ K.T).masked_fill_(inputs.samples()[queries][:, None] == samples[None, :], 0.0)
    shrunk = S.sign() * (S.abs() - inputs.threshold.double()).relu_() if inputs.soft else S
    C = inputs.scale * shrunk
    dC = G @ V.T + 2 * G2[:, None] * C
    if inputs.soft:
        dC += G1[:, None] * C.sign()
    undecided = (S.abs() - inputs.threshold.double()).abs() < ROUNDING if inputs.soft else torch.zeros_like(S).bool()
    return C, inputs.scale * dC * (shrunk != 0), undecided


def checked(count: int, device: torch.device) -> Tensor:
    return torch.linspace(0, count - 1, min(count, CHECKED), dtype=torch.float64).long().to(device)


def expected(inputs: Inputs) -> list[tuple[Tensor, Tensor]]:
    """In float64 (positions, numbers) of each result, in order: of 256 queries and 256 samples, against all others,
    those with no undecided pair.
    """
    device = inputs.Q.device
    queries, samples = checked(inputs.Q.shape[0], device), checked(inputs.K.shape[0], device)
    every_query, every_sample = (torch.arange(x.shape[0], device=device) for x in (inputs.Q, inputs.K))
    C, dS, undecided = pairs(inputs, queries, every_sample)
    clear = ~undecided.any(1)
    queries, C, dS = queries[clear], C[clear], dS[clear]
    norms = [(queries, C.abs().sum(1))] if inputs.soft else []
    wanted = [(queries, C @ inputs.V.double()), *norms, (queries, C.square().sum(1)), (queries, dS @ inputs.K.double())]
    C, dS, undecided = pairs(inputs, every_query, samples)
    clear = ~undecided.any(0)
    samples, C, dS = samples[clear], C[:, clear], dS[:, clear]
    wanted += [(samples, dS.T @ inputs.Q.double()), (samples, C.T @ inputs.G.double())]
    if inputs.soft and inputs.Q.shape[0] * inputs.K.shape[0] <= MOST_FOR_THRESHOLD:
        total = inputs.Q.new_zeros(1, dtype=torch.float64)
        for part in every_query.split(1000):
            C, dS, _ = pairs(inputs, part, every_sample)
            total -= (dS * C.sign()).sum()
        wanted.append((torch.zeros(1, dtype=torch.int64, device=device), total))
    return wanted


def error(inputs: Inputs, run: Run, wanted: list[tuple[Tensor, Tensor]]) -> float:
    """The largest relative error among a variant's results."""
    results = zip(run(0), wanted, strict=False)
    return max(relative_error(found.detach().reshape(-1, *want.shape[1:])[at], want) for found, (at, want) in results)


def least_work(which: str, shape: Shape) -> tuple[float, float]:
    """Bytes moved and FLOP that no implementation can do without: each operand read once, two products a pair, and five
    more, the scores again among them, with the backward. Linear-time products for φ the identity.
    """
    n, d, b = shape.n, shape.d, shape.b
    gradients = which != "forward"
    moved = 4 * ((b + 2 * n) * d * (3 if gradients else 1) + b * d)
    if shape.phi == "identity":
        return moved, 4 * (n + b) * d * d * (2.5 if gradients else 1)
    return moved, 2 * b * n * d * (7 if gradients else 2)
