"""SENet: coefficients that two networks give for any pair of samples, streamed so that memory does not grow with N.

Zhang, You, Vidal, Li: Learning a self-expressive network for subspace clustering, CVPR 2021 (arXiv 2110.04318);
released code github.com/zhangsz1998/Self-Expressive-Network. A query network u and a key network v take features x
(unit rows, no encoder is learned) to w numbers, and sample j has in the combination of sample i the coefficient

    c_ij = T_b(u(x_i)·v(x_j)) / w,    T_b(s) = sign(s) max(|s| − b, 0),    c_ii = 0

with one learned threshold b. A batch B against a dictionary D of samples, B among them, has the elastic-net loss

    Σ_{i ∈ B} ( γ/2 ||x_i − Σ_j c_ij x_j||² + Σ_j ( λ |c_ij| + (1 − λ)/2 c_ij² ) ),    j ∈ D

The dictionary goes by in chunks. Each adds its part to the combination and to the two norms, nothing of it is kept, and
the backward runs the key network on it once more: the published two passes, in memory that does not depend on |D|.

Ours: the paper draws its N training samples once and takes all of them as the dictionary; here every step draws a
dictionary anew, so that all samples train both networks at a cost that does not depend on N. As in the paper, where the
networks are then asked for coefficients on more samples than they were trained on, a row of C adds up to more than its
sample; the graph looks at proportions. A sample's own coefficient is left out of the sum, where the released code
subtracts it afterwards.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dsc_ext import inner_product_self_expression, topk_coefficients
from dsclust.checks import integer, number
from dsclust.names import AssignLabels
from dsclust.parts.method import BatchLoss, Pretrained, Problem, TrainedMethod, TrainedModel, register_method
from dsclust.presets import Preset

# Samples that go through the key network at a time: large enough for the matrix products, 10 MB of activations for
# w = 256.
CHUNK = 2048
# Largest norm of the gradient of a batch's mean loss, as published.
_GRADIENT_NORM = 1e-3


@register_method
@dataclass(frozen=True)
class SENetMethod(TrainedMethod):
    """Settings of SENet; see :class:`dsclust.SENet` for each. Raises TypeError or ValueError for an impossible one."""

    name: ClassVar[str] = "senet"
    title: ClassVar[str] = "SENet"
    summary: ClassVar[str] = "two networks give the coefficient of any pair; memory of training free of N, new samples"
    batch_size: ClassVar[int | None] = 100
    assign_labels: ClassVar[AssignLabels] = "kmeans"
    width: int = 256
    depth: int = 3
    gamma: float = 200.0
    l1_ratio: float = 0.9
    n_keys: int = 1000
    n_coefficients: int = 1000
    n_steps: int = 5000

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("depth", 1), ("n_keys", 0), ("n_coefficients", 1), ("n_steps", 1)):
            integer(self.title, name, getattr(self, name), least=least)
        number(self.title, "gamma", self.gamma, above=0)
        number(self.title, "l1_ratio", self.l1_ratio, least=0, most=1)

    def adapt_preset(self, preset: Preset) -> Preset:
        return replace(preset, graph=replace(preset.graph, affinity="neighbors"))

    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        return 0

    def row_entries(self, n_samples: int) -> int:
        return min(self.n_coefficients, n_samples - 1)

    def epochs(self, problem: Problem) -> int:
        return -(-self.n_steps // problem.n_batches)

    def model(self, problem: Problem, pretrained: Pretrained | None, generator: torch.Generator) -> SENetModel:
        return SENetModel(math.prod(problem.sample_shape), self, generator=generator)

    def encoder(self, preset: Preset, sample_shape: tuple[int, ...]) -> UnitRows:
        return UnitRows()

    def restore_classifier(self, tensors: Mapping[str, Tensor], preset: Preset, n_clusters: int) -> NearestRow:
        weight = tensors["query.0.weight"]
        query = network(weight.shape[1], self.width, self.depth, torch.Generator()).to(weight)
        restored = NearestRow(query, tensors["factor"], tensors["rows"], tensors["labels"], n_clusters)
        restored.load_state_dict(dict(tensors))
        return restored


class UnitRows(nn.Module):
    """Samples (n, ...) to their features, rows (n, f) of unit length. Nothing to learn; a zero sample stays zero."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.flatten(1), dim=1)


def network(features: int, width: int, depth: int, generator: torch.Generator) -> nn.Sequential:
    """Return `depth` hidden layers of `width` with ReLU, then as many outputs through tanh; on the CPU in float32.

    Weights as published: uniform by He et al. (2015) in the hidden layers, by Glorot & Bengio (2010) in the last; zero
    biases.
    """
    sizes = [features] + [width] * (depth + 1)
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        linear = nn.utils.skip_init(nn.Linear, n_in, n_out)
        if i < depth:
            nn.init.kaiming_uniform_(linear.weight, generator=generator)
        else:
            nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU() if i < depth else nn.Tanh()]
    return nn.Sequential(*layers)


class SENetModel(TrainedModel):
    """The two networks, of f w + d w² + (d + 1) w parameters each for f features and d hidden layers; the threshold."""

    max_gradient_norm = _GRADIENT_NORM

    def __init__(self, features: int, settings: SENetMethod, *, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = UnitRows()
        self.query = network(features, settings.width, settings.depth, generator)
        self.key = network(features, settings.width, settings.depth, generator)
        self.threshold = nn.Parameter(torch.zeros(()))
        self.settings = settings
        self.samples = torch.empty(0)
        self.draws = torch.Generator()

    def begin_epoch(self, x: Tensor, epoch: int, generator: torch.Generator) -> None:
        """Keep what the epoch's dictionaries are drawn from; `x` is not copied."""
        self.samples, self.draws = x, generator

    def lr_factor(self, epoch: int, epochs: int) -> float:
        """Return a cosine from 1 to 0, a step an epoch: as published."""
        return 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))

    def optimizers(self, lr: float, n_batches: int) -> list[torch.optim.Optimizer]:
        """Return Adam at lr, whatever the number of batches: as published."""
        return [torch.optim.Adam(self.parameters(), lr=lr)]

    def batch_loss(self, x: Tensor, rows: Tensor | None = None) -> BatchLoss:
        """Return the loss of a batch against its dictionary: all samples, or as many as `n_keys` says, drawn at random.

        The terms are sums over the batch; the objective is their mean, for the bound on the gradient's norm is
        published for that. Costs 6 operations a weight and sample of the networks, 8 where the dictionary has more
        than one chunk, and O(B |D| (w + f)); memory O((B + CHUNK)(w + f)) whatever the size of D.
        """
        z = self.encoder(x)
        b = len(z)
        if rows is None:
            rows = torch.arange(b, device=x.device)
        query = self.query(z)
        members = torch.cat([rows, self._others(rows)])
        # The batch comes first: its own coefficients all lie in the first chunk.
        first = max(CHUNK, b)
        chunks = [members[:first], *(part for part in members[first:].split(CHUNK) if len(part))]
        total: list[Tensor] = []
        for i, chunk in enumerate(chunks):
            arguments = (query, chunk, torch.arange(b, device=x.device) if i == 0 else None)
            if len(chunks) == 1:
                part = self._expressed(*arguments)
            else:
                part = checkpoint(self._expressed, *arguments, use_reentrant=False, preserve_rng_state=False)
            total = list(part) if i == 0 else [sum_ + more for sum_, more in zip(total, part, strict=True)]
        expressed, l1, l2 = total
        s = self.settings
        terms = {
            "self_expression": s.gamma / 2 * (z - expressed).square().sum(),
            "coefficients": s.l1_ratio * l1.sum() + (1 - s.l1_ratio) / 2 * l2.sum(),
        }
        objective = torch.stack(list(terms.values())).sum() / b
        return BatchLoss(objective, {name: term.detach() for name, term in terms.items()}, {})

    def _others(self, rows: Tensor) -> Tensor:
        """Return the dictionary without the batch."""
        n, wanted = len(self.samples), self.settings.n_keys or len(self.samples)
        if wanted < n:
            order = torch.randperm(n, generator=self.draws).to(rows.device)
        else:
            order = torch.arange(n, device=rows.device)
        free = torch.ones(n, dtype=torch.bool, device=rows.device).index_fill_(0, rows, False)
        return order[free[order]][: max(wanted - len(rows), 0)]

    def _expressed(self, query: Tensor, members: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what some of the dictionary adds to Ẑ (B, f), ‖c‖₁ (B,) and ‖c‖₂² (B,); `own`: which member each
        query is.
        """
        values = self.encoder(self.samples[members])
        keys = self.key(values)
        Zhat, l1, l2 = inner_product_self_expression(
            query, keys, values, self.threshold, 1.0 / self.settings.width, own, zero_diagonal=own is not None
        )
        assert l1 is not None
        return Zhat, l1, l2

    @torch.no_grad()
    def coefficients(self, latent: Tensor) -> Tensor:
        """Return C (N, N) as CSR: of each row the `n_coefficients` largest |c_ij| over all N − 1 others, zeros left
        out.

        Scores are dropped as they are made: O(N w) memory for the keys beside C itself, 2 N² w operations.
        """
        n = len(latent)
        keys = latent.new_empty(n, self.settings.width)
        for some, z in zip(keys.split(CHUNK), latent.split(CHUNK), strict=True):
            some.copy_(self.key(z))
        k = self.settings.row_entries(n)
        values, columns, counts = [], [], []
        for start, z in zip(range(0, n, CHUNK), latent.split(CHUNK), strict=True):
            # T_b keeps the order of |s|, so that the choice comes first.
            scores, column = topk_coefficients((self.query(z), keys), k, row_offset=start)
            found = scores.sign() * (scores.abs() - self.threshold).clamp_min(0.0)
            kept = found != 0
            values.append(found[kept] / self.settings.width)
            columns.append(column[kept])
            counts.append(kept.sum(dim=1))
        ends = torch.cat(counts).cumsum(0)
        return torch.sparse_csr_tensor(
            torch.cat([ends.new_zeros(1), ends]), torch.cat(columns), torch.cat(values), (n, n), check_invariants=False
        )

    def classifier(self, latent: Tensor, labels: Tensor, n_clusters: int, generator: torch.Generator) -> NearestRow:
        return NearestRow.fit(self, latent, labels, n_clusters)


class NearestRow(nn.Module):
    """Features (n, f) to scores (n, K): the cluster of the fitted sample whose row of C is most like that of a new one.

    Of coefficients c_ij = u_i·v_j, without a threshold and all of them, two rows have the inner product ``u_iᵀ G u_k``,
    ``G = Σ_j v_j v_jᵀ``: with ``G = B Bᵀ`` it is that of ``Bᵀ u``. So the row of a new sample, which has N entries, is
    compared with those of the fitted ones by w numbers each; the nearest scores its cosine plus 1, other clusters 0. A
    fitted sample is nearest to itself and keeps its label. Holds the query network, B and N w numbers; a sample costs
    2 w² + 2 N w operations.

    Why not the votes of the coefficients themselves: on MNIST's test images (w = 256, 3,000 steps) this rule gives 93 %
    of the fitted samples their cluster when they themselves are left out, the sum of each cluster's |c| over the 1, 5,
    20, 100 or 1,000 largest 84 to 90 %; on scikit-learn's digits 98 % and 86 to 91 %.
    """

    def __init__(self, query: nn.Module, factor: Tensor, rows: Tensor, labels: Tensor, n_clusters: int) -> None:
        super().__init__()
        self.query = query
        self.factor: Tensor
        self.rows: Tensor
        self.labels: Tensor
        for name, tensor in (("factor", factor), ("rows", rows), ("labels", labels)):
            self.register_buffer(name, tensor)
        self.n_clusters = n_clusters

    @classmethod
    @torch.no_grad()
    def fit(cls, model: SENetModel, latent: Tensor, labels: Tensor, n_clusters: int) -> NearestRow:
        """Learn from the fitted samples' features (N, f) and clusters (N,). Three passes of a network, O(N w² + w³)."""
        width = model.settings.width
        gram = latent.new_zeros(width, width, dtype=torch.float64)
        for z in latent.split(CHUNK):
            keys = model.key(z).double()
            gram.addmm_(keys.T, keys)
        strength, basis = torch.linalg.eigh(gram)
        factor = (basis * strength.clamp_min(0.0).sqrt()).to(latent)
        made = cls(model.query, factor, latent.new_empty(len(latent), width), labels, n_clusters)
        for rows, z in zip(made.rows.split(CHUNK), latent.split(CHUNK), strict=True):
            rows.copy_(made.unit_rows(z))
        return made

    def unit_rows(self, latent: Tensor) -> Tensor:
        """Return what stands for the rows of C of samples (n, f): (n, w), of unit length."""
        return F.normalize(self.query(latent) @ self.factor, dim=1)

    def forward(self, latent: Tensor) -> Tensor:
        rows = self.unit_rows(latent)
        cosine, nearest = topk_coefficients((rows, self.rows), 1, signed=True, zero_diagonal=False)
        return rows.new_zeros(len(rows), self.n_clusters).scatter_(1, self.labels[nearest], 1.0 + cosine)
