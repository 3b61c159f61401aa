"""The op dsc_ext.info_nce, forward and forward with backward, against plain PyTorch.

Owns the inputs, the variants, what they must give and the least work they can do. Knows nothing of timing. Every
variant is called with the number of a batch and gives (loss,) or (loss, ∂/∂anchor, ∂/∂positive), of the mean over the
batch; batch 0 is the one that is checked, in float64. Rows are of unit length, each anchor's own sample is excluded.

Ways to write it without this package, all with the gradient by hand: `whole` keeps the B × N scores in a buffer that is
allocated once and works on it in place; `tiled` makes an online softmax of 2048 samples at a time, so that the scores
stay in the cache; `attention` (with the backward) takes PyTorch's fused attention with keys and values both the bank,
whose log-sum-exp and output are then corrected for the one sample that must not be there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from ceilings import relative_error
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus

import dsc_ext

PASSES = ("forward", "forward+backward")
BATCHES = 4
TOLERANCE = 1e-4  # an anchor's own sample among its negatives costs 1e-4 and more
TEMPERATURE = 0.1
TILE = 2048
NOTES = ("The naive variant holds B × N scores and several copies of them.",)
Run = Callable[[int], tuple[Tensor, ...]]
Function = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Shape:
    """N samples in the bank, d latent dimensions, a batch of B."""

    n: int
    d: int
    b: int


def shapes(quick: bool) -> list[Shape]:
    if quick:
        return [Shape(n, 16, 32) for n in (128, 256)]
    return [Shape(n, d, b) for n in (10_000, 100_000) for d in (64, 128, 512) for b in (64, 256, 1024)]


def tiny(shape: Shape) -> Shape:
    """The same at the size at which the memory measurement warms up."""
    return replace(shape, n=64, b=8)


def panel(which: str, shape: Shape) -> str | None:
    """Title of the plot's panel in which a result stands, if it is shown."""
    return f"{which}, d = {shape.d}, B = {shape.b}" if which != "forward" and shape.d in (16, 128) else None


class Inputs:
    """A bank that resembles data, with every sample near a few others, and batches of two views of its samples."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)
        n, d, b = shape.n, shape.d, shape.b

        def normal(rows: int) -> Tensor:
            return torch.randn(rows, d, generator=random)

        centers = normal(100)
        bank = centers[torch.randint(100, (n,), generator=random)] + normal(n)
        order = torch.randperm(n, generator=random)
        rows = [order[i * b : (i + 1) * b] for i in range(max(1, min(BATCHES, n // b)))]
        self.bank = normalize(bank).to(device)
        self.rows = [r.to(device) for r in rows]
        self.anchor = [normalize(bank[r] + 0.5 * normal(r.shape[0])).to(device) for r in rows]
        self.positive = [normalize(bank[r] + 0.5 * normal(r.shape[0])).to(device) for r in rows]

    def batch(self, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        i %= len(self.rows)
        return self.anchor[i], self.positive[i], self.bank, self.rows[i]


def ours(a: Tensor, p: Tensor, M: Tensor, rows: Tensor, gradients: bool) -> tuple[Tensor, ...]:
    if not gradients:
        return (dsc_ext.info_nce(a, p, M, rows, temperature=TEMPERATURE),)
    a, p = a.detach().requires_grad_(), p.detach().requires_grad_()
    loss = dsc_ext.info_nce(a, p, M, rows, temperature=TEMPERATURE)
    return loss, *torch.autograd.grad(loss, (a, p))


def usual(a: Tensor, p: Tensor, M: Tensor, rows: Tensor) -> Tensor:
    """What MoCo's code does, with each anchor's own sample masked out."""
    own = (a * p).sum(1, keepdim=True)
    excluded = torch.arange(M.shape[0], device=a.device)[None, :] == rows[:, None]
    negative = (a @ M.T).masked_fill(excluded, -torch.inf)
    logits = torch.cat((own, negative), 1) / TEMPERATURE
    return cross_entropy(logits, torch.zeros_like(rows))


def autograd_of(loss_of: Callable[..., Tensor]) -> Function:
    def run(a: Tensor, p: Tensor, M: Tensor, rows: Tensor, gradients: bool) -> tuple[Tensor, ...]:
        if not gradients:
            return (loss_of(a, p, M, rows),)
        a, p = a.detach().requires_grad_(), p.detach().requires_grad_()
        loss = loss_of(a, p, M, rows)
        return loss, *torch.autograd.grad(loss, (a, p))

    return run


def finish(a: Tensor, p: Tensor, lse: Tensor, E: Tensor | None) -> tuple[Tensor, ...]:
    """Loss and gradients from the log-sum-exp of the negatives and their expectation under the softmax."""
    excess = lse - (a * p).sum(1) / TEMPERATURE
    loss = softplus(excess).mean()
    if E is None:
        return (loss,)
    weight = excess.sigmoid()[:, None] / (TEMPERATURE * a.shape[0])
    return loss, (E - p) * weight, -weight * a


class Whole:
    def __init__(self) -> None:
        self.scores = torch.empty(0)

    def __call__(self, a: Tensor, p: Tensor, M: Tensor, rows: Tensor, gradients: bool) -> tuple[Tensor, ...]:
        if self.scores.shape != (a.shape[0], M.shape[0]):
            self.scores = a.new_empty(a.shape[0], M.shape[0])
        scores = torch.mm(a / TEMPERATURE, M.T, out=self.scores)
        scores.scatter_(1, rows[:, None], -torch.inf)
        if not gradients:
            return finish(a, p, scores.logsumexp(1), None)
        top = scores.amax(1, keepdim=True)
        total = scores.sub_(top).exp_().sum(1, keepdim=True)
        return finish(a, p, (top + total.log())[:, 0], (scores @ M).div_(total))


class Tiled:
    def __init__(self) -> None:
        self.scores = torch.empty(0)

    def __call__(self, a: Tensor, p: Tensor, M: Tensor, rows: Tensor, gradients: bool) -> tuple[Tensor, ...]:
        B, N = a.shape[0], M.shape[0]
        if self.scores.shape[0] != B:
            self.scores = a.new_empty(B, TILE + 1)
        scaled, top, total = a / TEMPERATURE, a.new_full((B, 1), -torch.inf), a.new_zeros(B, 1)
        E = torch.zeros_like(a) if gradients else None
        for begin in range(0, N, TILE):
            part = M[begin : begin + TILE]
            width = part.shape[0]
            scores = torch.mm(scaled, part.T, out=self.scores[:, :width])
            column = torch.where((rows >= begin) & (rows < begin + width), rows - begin, width)  # one column to spare
            self.scores[:, : width + 1].scatter_(1, column[:, None], -torch.inf)
            rising = torch.maximum(top, scores.amax(1, keepdim=True))
            factor, top = (top - rising).exp_(), rising
            scores.sub_(top).exp_()
            total.mul_(factor).add_(scores.sum(1, keepdim=True))
            if E is not None:
                E.mul_(factor).addmm_(scores, part)
        return finish(a, p, (top + total.log())[:, 0], None if E is None else E.div_(total))


def attention(a: Tensor, p: Tensor, M: Tensor, rows: Tensor, gradients: bool) -> tuple[Tensor, ...]:
    query, bank = a[None, None], M[None, None]
    if a.is_cuda:
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, bank, bank, None, True, scale=1 / TEMPERATURE
        )[:2]
    else:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, bank, bank, scale=1 / TEMPERATURE)
    lse = lse.reshape(-1)[: a.shape[0]]
    own = M.index_select(0, rows)  # taken out again afterwards
    share = ((a * own).sum(1) / TEMPERATURE - lse).exp_()
    E = torch.addcmul(out[0, 0], share[:, None], own, value=-1).div_(1 - share[:, None])
    return finish(a, p, lse + torch.log1p(-share), E)


def names(which: str, shape: Shape, compiled: bool) -> list[str]:
    """ "naive", "ours", and the ways to write the best PyTorch."""
    fused = ["attention"] if which != "forward" else []
    return ["naive", *(["compiled"] if compiled else []), "whole", "tiled", *fused, "ours"]


def build(name: str, which: str, shape: Shape, inputs: Inputs, own: bool = False) -> Run:
    """The variant of that name, bound to the inputs; ``own`` is of no meaning here, nobody writes to them."""
    gradients = which != "forward"
    function: Function
    if name == "naive":
        function = autograd_of(usual)
    elif name == "compiled":
        function = autograd_of(torch.compile(usual, dynamic=False))
    else:
        function = {"ours": ours, "whole": Whole(), "tiled": Tiled(), "attention": attention}[name]
    return lambda i: function(*inputs.batch(i), gradients)


def expected(inputs: Inputs) -> tuple[Tensor, ...]:
    """Loss and gradients of batch 0 in float64, 64 anchors at a time."""
    a, p, M, rows = inputs.batch(0)
    bank = M.double()
    parts = [
        autograd_of(usual)(a[i : i + 64].double(), p[i : i + 64].double(), bank, rows[i : i + 64], True)
        for i in range(0, a.shape[0], 64)
    ]
    share = [part[1].shape[0] / a.shape[0] for part in parts]
    loss = torch.stack([part[0] * s for part, s in zip(parts, share, strict=True)]).sum()
    return loss, *(torch.cat([part[k] * s for part, s in zip(parts, share, strict=True)]) for k in (1, 2))


def error(inputs: Inputs, run: Run, wanted: tuple[Tensor, ...]) -> float:
    """The largest relative error among a variant's tensors for batch 0."""
    return max(relative_error(found.detach(), want) for found, want in zip(run(0), wanted, strict=False))


def least_work(which: str, shape: Shape) -> tuple[float, float]:
    """Bytes moved and FLOP that no implementation can do without: each operand read once, one product or two."""
    n, d, b = shape.n, shape.d, shape.b
    gradients = which != "forward"
    return 4 * (n * d + (4 if gradients else 2) * b * d), (4 if gradients else 2) * b * n * d
