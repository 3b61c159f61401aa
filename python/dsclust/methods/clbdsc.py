"""CLBDSC: contrastive subspace clustering against a memory bank, without a decoder (arXiv 2507.19917, sec. 3.4).

A pre-trained backbone and a small head turn samples into latent rows of unit length, z. Summed over a batch B,

    Σ_i ℓ(a_i, z_i⁺) + s ||Z_B - Ẑ_B||² + s λ ||C_B||²,    Ẑ_B = C_B M,    c_ii = 0

with M the bank after the batch has entered it, its own rows live, and ℓ the InfoNCE loss of an anchor a_i, the positive
z_i⁺ of a view of sample i, and the rows of the bank as negatives. The paper's anchor is the self-expressed row ẑ_i;
here z_i can be taken as well. The paper states neither temperature, weights nor views: those are ours, as are the
start, λ, and that likely members of one's own cluster are not taken for negatives:

- λ = N / K, for which a C that averages over each cluster costs as much as it explains (see
  `dsclust.presets.LossWeights.scale_free`), and C starts at the closed form on the backbone's features: at C = 0 the
  anchor ẑ has no direction, and its gradient no bound.
- ẑ_i is made of the very rows that InfoNCE pushes it away from. `mask_negatives` leaves the largest |c_ij| out.

A contrastive loss can collapse, and so can self-expression: a latent space of one direction expresses itself without
error. Every epoch measures it, and `CollapseWarning` says so in the end.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsc_ext import MemoryBank, RowAdam, SelfExpressiveCUDA, info_nce, topk_coefficients
from dsclust.features.backbones import Backbone, ImageBackbone, build_backbone, parse_size
from dsclust.features.cache import key, recalled
from dsclust.features.views import ImageViews, RowViews
from dsclust.parts.method import BatchLoss, Method, Pretrained, Problem, TrainedModel
from dsclust.parts.networks import dense_layers
from dsclust.presets import Preset
from dsclust.ridge import ridge_coefficients, unit_rows

Anchor = Literal["z", "z_hat"]
ANCHORS = ("z", "z_hat")
EPOCHS = 20
_HIDDEN = 512
# A pre-trained network moves this much more slowly than the head behind it, which starts from nothing.
_BACKBONE_RATE = 0.1
# Collapse: fewer directions than half of those that clusters in general position span (or that features can have), all
# samples in one direction, or coefficients that explain next to nothing.
_FEWEST_DIRECTIONS = 0.5
_LARGEST_COSINE = 0.9
_LARGEST_ERROR = 0.9


class CollapseWarning(UserWarning):
    """The latent space, or C, says too little to cluster by; the message gives the figure and its threshold."""


@dataclass(frozen=True)
class CLBDSCMethod(Method):
    """Settings of CLBDSC; see `dsclust.CLBDSC` for each. Raises ValueError for one out of range."""

    name: ClassVar[str] = "clbdsc"
    title: ClassVar[str] = "CLBDSC"
    summary: ClassVar[str] = "a contrastive head on a pre-trained backbone, against a memory bank, without a decoder"
    batch_size: ClassVar[int | None] = 100
    assign_labels: ClassVar[Literal["kmeans", "discretize", "cluster_qr"]] = "kmeans"
    backbone: str = "auto"
    weights: str = ""
    resize: str = "auto"
    tune: bool = False
    anchor: Anchor = "z"
    mask_negatives: float = 1.0
    temperature: float = 0.2
    self_expression: float = 1.0
    embedding_dim: int = 128
    views: int = 6
    crop: float = 0.8
    flip: bool = True
    jitter: float = 0.2
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.anchor not in ANCHORS:
            raise ValueError(f"CLBDSC: anchor: expected one of {', '.join(ANCHORS)}, got {self.anchor!r}")
        for name in ("embedding_dim", "views"):
            if getattr(self, name) < 1:
                raise ValueError(f"CLBDSC: {name}: expected at least 1, got {getattr(self, name)!r}")
        for name in ("mask_negatives", "self_expression"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"CLBDSC: {name}: expected a number >= 0, got {getattr(self, name)!r}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"CLBDSC: temperature: expected a number > 0, got {self.temperature!r}")
        parse_size(self.resize)
        ImageViews(self.crop, self.flip, self.jitter), RowViews(self.noise)

    def adapted(self, preset: Preset) -> Preset:
        """With the graph of few edges, and images on the scale 0 .. 1 where the preset has none."""
        images = bool(preset.channels) and self.backbone != "none"
        scale = (0.0, 1.0) if images and preset.pixel_range is None else preset.pixel_range
        return replace(preset, affinity="sparse", pixel_range=scale)

    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        # C, two moments, and of the batch's rows the gradient and the copy that negatives are masked by.
        return 3 * n_samples**2 + 2 * rows_per_batch * n_samples

    def epochs(self, problem: Problem) -> int:
        """20, whatever the data: Adam moves a weight by lr an epoch at most, so that the head leaves its random start,
        whose weights are a few hundredths, about once."""
        return EPOCHS

    def encoder(self, preset: Preset, sample_shape: tuple[int, ...]) -> Encoder:
        return self._encoder(preset, sample_shape, torch.Generator(), pretrained=False)

    def _encoder(
        self, preset: Preset, sample_shape: tuple[int, ...], generator: torch.Generator, pretrained: bool
    ) -> Encoder:
        backbone = build_backbone(
            self.backbone,
            sample_shape,
            pixel_range=preset.pixel_range,
            resize=self.resize,
            weights=self.weights,
            pretrained=pretrained,
            image_views=ImageViews(self.crop, self.flip, self.jitter),
            row_views=RowViews(self.noise),
        )
        if self.tune and not any(True for _ in backbone.parameters()):
            raise ValueError("CLBDSC: tune: expected False, for the backbone 'none' has nothing to tune")
        backbone.requires_grad_(self.tune)
        return Encoder(backbone, ContrastiveHead(backbone.dim, self.embedding_dim, generator))

    def model(self, problem: Problem, pretrained: Pretrained | None, seed: torch.Generator) -> CLBDSC:
        encoder = self._encoder(problem.preset, problem.sample_shape, seed, pretrained=True)
        return CLBDSC(encoder, problem.n_samples, problem.n_clusters, self, seed)


class ContrastiveHead(nn.Module):
    """Feature rows (n, f) to latent rows (n, h) of unit length.

    Rows are scaled to unit length, centered by the mean over the samples and scaled again, the input u of
    `dsclust.baselines.ridge_labels`. Then ``y = u V + MLP(√f u) / √h``: V the leading principal directions of the
    samples, fixed, and an MLP of two layers, 512 units in between, whose second is zero at first. Training sets out
    from what the closed form sees, where a head of random weights alone would first have to win back what its
    projection lost. The roots make the MLP's input and output of the order of one. Its first layer is drawn from
    `generator`.
    """

    def __init__(self, features: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.mean: Tensor
        self.directions: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("directions", torch.zeros(features, dim))
        self.layers = dense_layers((features, _HIDDEN, dim), generator)
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]

    def fit(self, features: Tensor) -> None:
        """Takes the mean and the directions of the feature rows (N, f) for those of all samples. O(N f min(N, f))."""
        self.mean.copy_(F.normalize(features, dim=1).mean(dim=0))
        rows = self._rows(features).double()
        if rows.shape[0] < rows.shape[1]:
            found = torch.linalg.svd(rows, full_matrices=False)[2].T
        else:
            found = torch.linalg.eigh(rows.T @ rows)[1].flip(1)
        found = found[:, : self.directions.shape[1]]
        # The sign of a direction is a convention: its largest entry is positive.
        peak = found.gather(0, found.abs().argmax(dim=0, keepdim=True))
        self.directions.zero_()
        self.directions[:, : found.shape[1]] = torch.where(peak < 0, -found, found)

    def _rows(self, features: Tensor) -> Tensor:
        return F.normalize(F.normalize(features, dim=1) - self.mean, dim=1)

    def unnormalized(self, features: Tensor) -> Tensor:
        """y (n, h) of feature rows (n, f)."""
        rows = self._rows(features)
        f, h = self.directions.shape
        latent: Tensor = rows @ self.directions + self.layers(rows * math.sqrt(f)) / math.sqrt(h)
        return latent

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.unnormalized(features), dim=1)


class Encoder(nn.Module):
    """A backbone and the head behind it: samples to latent rows of unit length."""

    def __init__(self, backbone: Backbone, head: ContrastiveHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        latent: Tensor = self.head(self.backbone(x))
        return latent


class CLBDSC(TrainedModel):
    """Encoder, coefficient matrix and memory bank.

    encoder
        Its backbone is tuned where `settings.tune`. If not, the features of the samples and of `settings.views` views
        of each are computed once, before the first step, and kept: (views + 1) N f numbers.
    n_samples, n_clusters
        N and K; C takes 4 N² bytes in float32, three times that with its optimizer's moments.
    seed
        Draws the views that are kept.

    Deterministic on a CPU for a given number of threads.
    """

    def __init__(
        self, encoder: Encoder, n_samples: int, n_clusters: int, settings: CLBDSCMethod, seed: torch.Generator
    ) -> None:
        super().__init__()
        dim = settings.embedding_dim
        self.encoder: Encoder = encoder
        self.self_expression = SelfExpressiveCUDA(n_samples, zero_diagonal=True, init=0.0)
        self.bank = MemoryBank(n_samples, dim)
        self.settings = settings
        self.n_clusters = n_clusters
        self.penalty = n_samples / n_clusters  # λ
        self.masked = min(round(settings.mask_negatives * n_samples / n_clusters), n_samples - 1)
        self._seed = seed
        # In the state, so that a resumed run has them as well.
        self.begun: Tensor
        self.features: Tensor
        self.view_features: Tensor
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        kept = 0 if settings.tune else n_samples
        self.register_buffer("features", torch.zeros(kept, encoder.backbone.dim))
        self.register_buffer("view_features", torch.zeros(settings.views, kept, encoder.backbone.dim))

    def latent(self, x: Tensor, batch_size: int) -> Tensor:
        """Latent rows (N, h). The first call fits the head to the features and starts C at the closed form."""
        backbone, head = self.encoder.backbone, self.encoder.head
        if not self.settings.tune and self.begun:
            kept: Tensor = head(self.features)
            return kept
        if not self.begun:
            backbone.fit(x)
        features = self._features(x, 0, batch_size)
        if not self.begun:
            head.fit(features)
            if not self.settings.tune:
                self.features.copy_(features)
            C = ridge_coefficients(unit_rows(features.double())[0], self.penalty)
            self.self_expression.Coefficient.copy_(C)
            self.begun.fill_(True)
        rows: Tensor = head(features)
        return rows

    @torch.no_grad()
    def start(self, x: Tensor, latent: Tensor) -> None:
        """Fills the bank, and computes the features of all views where the backbone is frozen."""
        self.bank.fill(latent)
        if self.settings.tune:
            return
        for i, view in enumerate(self.view_features):
            view.copy_(self._features(x, i + 1, 100, self.encoder.backbone.draw(len(x), self._seed)))

    def _features(self, x: Tensor, index: int, batch_size: int, views: Tensor | None = None) -> Tensor:
        """Feature rows (N, f) of all samples, pass `index` of those before training; a frozen network's from the cache
        where they are in it.
        """
        backbone, n = self.encoder.backbone, len(x)
        passes = 1 + (0 if self.settings.tune else self.settings.views)

        def compute() -> dict[str, Tensor]:
            parts = []
            drawn = [None] * n if views is None else views.split(batch_size)
            for part, view in zip(x.split(batch_size), drawn, strict=False):
                parts.append(backbone(part, view))
                if self.report is not None and isinstance(backbone, ImageBackbone):
                    self.report(index * n + sum(map(len, parts)), passes * n)
            return {"rows": torch.cat(parts)}

        if self.cache is None or self.settings.tune or not isinstance(backbone, ImageBackbone):
            return compute()["rows"]
        settings = {"name": self.settings.backbone, "size": backbone.size, "pixel_range": backbone.pixel_range}
        name = key(
            {**settings, "views": None if views is None else asdict(backbone.views)},
            [*backbone.state_dict().values(), x, *([] if views is None else [views])],
        )
        return recalled(self.cache, name, {"rows": (n, backbone.dim)}, compute)["rows"].to(x)

    def begin_epoch(self, x: Tensor, epoch: int, generator: torch.Generator) -> None:
        """Draws a view of each sample: one of those kept, or a new one where the backbone is tuned."""
        if self.settings.tune:
            self._drawn = self.encoder.backbone.draw(len(x), generator)
        else:
            self._drawn = torch.randint(self.settings.views, (len(x),), generator=generator)
        self._drawn = self._drawn.to(x.device)

    def batch_loss(self, x: Tensor, rows: Tensor | None = None) -> BatchLoss:
        """Enters a batch into the bank and returns its loss.

        x: (B, *sample_shape); rows: (B,) int64 or None for all samples in order. Costs O(B N h), and two passes of the
        backbone where it is tuned. s λ||C_B||² is not in the objective: `RowAdam` adds its gradient as weight decay.
        Measures: "self_expression_error" ||z - ẑ||² / ||z||²; "latent_norm", of z before it is scaled to unit length;
        "expressed_norm", of ẑ.
        """
        if rows is None:
            rows = torch.arange(len(x), device=x.device)
        head = self.encoder.head
        if self.settings.tune:
            anchored, viewed = self.encoder.backbone(x), self.encoder.backbone(x, self._drawn[rows])
        else:
            anchored, viewed = self.features[rows], self.view_features[self._drawn[rows], rows]
        raw = head.unnormalized(anchored)
        z, positive = F.normalize(raw, dim=1), head(viewed)
        self.bank.update(rows, z.detach())
        expressed = self.self_expression(z, rows, self.bank)

        C = self.self_expression.Coefficient.detach()
        mask = topk_coefficients(C, self.masked, rows=rows)[1] if self.masked else None
        anchor = z if self.settings.anchor == "z" else F.normalize(expressed, dim=1)
        temperature = self.settings.temperature
        contrastive = info_nce(
            anchor, positive, self.bank.features, rows, temperature=temperature, mask=mask, reduction="sum"
        )
        error = (z - expressed).square().sum(dim=1)
        weight = self.settings.self_expression
        terms = {"contrastive": contrastive, "self_expression": weight * error.sum()}
        objective = torch.stack(list(terms.values())).sum()
        logged = {name: term.detach() for name, term in terms.items()}
        logged["coefficients"] = weight * self.penalty * torch.linalg.vector_norm(C[rows]) ** 2
        live = z.detach()
        tiny = torch.finfo(z.dtype).tiny
        measures = {
            "self_expression_error": (error.detach() / live.square().sum(dim=1).clamp_min(tiny)).sum(),
            "latent_norm": raw.detach().norm(dim=1).sum(),
            "expressed_norm": expressed.detach().norm(dim=1).sum(),
        }
        return BatchLoss(objective, logged, measures)

    def epoch_measures(self) -> Mapping[str, float]:
        """ "effective_rank" and "mean_cosine" of the bank, see the functions of these names."""
        Z = self.bank.features
        return {"effective_rank": effective_rank(Z), "mean_cosine": mean_cosine(Z)}

    def optimizers(self, lr: float, n_batches: int) -> list[torch.optim.Optimizer]:
        """Adam for the head at lr / n_batches, a backbone in tuning at a tenth of that, RowAdam for C at lr.

        As in BDSC `n_batches` steps then carry a network as far in an epoch as one at full batch.
        """
        groups = [{"params": list(self.encoder.head.parameters()), "lr": lr / n_batches}]
        if self.settings.tune:
            backbone = list(self.encoder.backbone.parameters())
            groups.append({"params": backbone, "lr": _BACKBONE_RATE * lr / n_batches})
        decay = 2.0 * self.settings.self_expression * self.penalty
        return [
            torch.optim.Adam(groups),
            RowAdam([self.self_expression.Coefficient], lr=lr, weight_decay=decay),
        ]

    def coefficients(self, latent: Tensor) -> Tensor:
        """C (N, N) without gradient, its diagonal zero; warns with :class:`CollapseWarning` where it says nothing."""
        C = self.self_expression.Coefficient.detach().clone().fill_diagonal_(0.0)
        for complaint in self._complaints(latent.detach(), C):
            warnings.warn(complaint, CollapseWarning, stacklevel=2)
        return C

    def _complaints(self, latent: Tensor, C: Tensor) -> list[str]:
        found = []
        directions = effective_rank(latent)
        fewest = _FEWEST_DIRECTIONS * min(self.n_clusters - 1, self.encoder.backbone.dim)
        if directions < fewest:
            found.append(
                f"the latent space has collapsed: {directions:.1f} effective directions for {self.n_clusters} "
                f"clusters, fewer than {fewest:g}"
            )
        cosine = mean_cosine(latent)
        if cosine > _LARGEST_COSINE:
            found.append(
                f"the latent space has collapsed: the mean cosine of its rows is {cosine:.3f}, above {_LARGEST_COSINE}"
            )
        error = float((latent - C @ latent).square().sum() / latent.square().sum().clamp_min(1e-30))
        if error > _LARGEST_ERROR:
            found.append(
                f"the coefficients express next to nothing: the relative self-expression error is {error:.2f}, above "
                f"{_LARGEST_ERROR}"
            )
        return found


def effective_rank(Z: Tensor) -> float:
    """exp of the entropy of the singular values of Z (N, h), scaled to sum to one (Roy & Vetterli, EUSIPCO 2007).

    Between 1, one direction, and min(N, h), all alike; 0 for Z = 0. Costs O(N h²).
    """
    strength = torch.linalg.svdvals(Z.double())
    total = strength.sum()
    if total == 0:
        return 0.0
    share = strength / total
    return float(torch.special.entr(share).sum().exp())


def mean_cosine(Z: Tensor) -> float:
    """Mean cosine of all pairs of rows of unit length (N, h), each with itself included: the squared length of their
    mean."""
    return float(Z.double().mean(dim=0).square().sum())
