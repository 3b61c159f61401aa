"""BDSC: deep subspace clustering by mini-batch against a memory bank (arXiv 2507.19917, sec. 3).

Owns the model, its loss for one batch and which optimizer moves what. Composes `dsc_ext`'s layer and bank; owns no
loop, no data and no randomness. The loss is DSC-Net's (Ji et al., NIPS 2017), summed over the rows B of a batch, so
that an epoch of batches adds up to the full loss:

    a ||X_B - D(Ẑ_B)||² + s ||Z_B - Ẑ_B||² + λ ||C_B||²,    Ẑ_B = C_B M,    Z_B = E(X_B)

with M the bank, after the batch has entered it; or λ ||C_B||₁ in the last term. With a single batch and live rows it
is DSC-Net.

The bank's order, what keeps it in step with the encoder, and the penalty are parts: `dsclust.parts.order`,
`dsclust.parts.consistency`, `dsclust.parts.penalty`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dsc_ext import MemoryBank, SelfExpression
from dsclust.checks import number, one_of
from dsclust.names import Gradient, words
from dsclust.parts.consistency import CONSISTENCIES, Consistency, HeldBank
from dsclust.parts.method import (
    AutoencoderMethod,
    BatchLoss,
    Pretrained,
    Problem,
    Start,
    TrainedModel,
    register_method,
)
from dsclust.parts.networks import Autoencoder
from dsclust.parts.order import BANK_ORDERS, BankOrder
from dsclust.parts.penalty import PENALTIES, Penalty
from dsclust.presets import LossWeights, settling_epochs


@dataclass(frozen=True)
class PairwiseMethod(AutoencoderMethod):
    """A method with a coefficient for every pair of samples: what BDSC and DSC-Net share.

    penalty: of the coefficients, "l2" for λ||C||², as published settings have it, or "l1" for λ||C||₁.
    """

    penalty: str = "l2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", PENALTIES.canonical(self.title, "penalty", self.penalty))

    @property
    def penalty_part(self) -> Penalty:
        """The penalty that `penalty` names."""
        return PENALTIES.make(self.title, "penalty", self.penalty)

    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        """Count C and two moments; its step stores no gradient."""
        return 3 * n_samples**2

    def epochs(self, problem: Problem) -> int:
        return settling_epochs(problem.n_samples, problem.n_clusters, problem.preset.lr)

    def scale_free_weights(self, problem: Problem, sample_energy: float, latent_energy: float) -> LossWeights:
        weight = self.penalty_part.scale_free(problem.n_samples, problem.n_clusters)
        return LossWeights.scale_free(sample_energy, latent_energy, weight)

    @abstractmethod
    def as_bdsc(self) -> BDSCMethod:
        """Return the settings of BDSC under which it is this method."""

    def model(self, problem: Problem, pretrained: Pretrained | None, generator: torch.Generator) -> BDSCModel:
        assert pretrained is not None
        return BDSCModel(
            pretrained.autoencoder,
            problem.n_samples,
            pretrained.weights,
            self.as_bdsc(),
            coefficient_init=problem.preset.coefficient_init,
            n_batches=problem.n_batches,
            chunk=problem.rows_per_batch,
        )


@register_method
@dataclass(frozen=True)
class BDSCMethod(PairwiseMethod):
    """Settings of BDSC. Raises ValueError for an unknown one, and where two do not fit.

    gradient: what of the bank carries gradient. "splice": the batch's own rows are live, so the reconstruction reaches
    the encoder through C_BB; with one batch this is DSC-Net. "detach": none, so the encoder sees the self-expression
    error only. "detach+ae": "detach" with the plain autoencoder term a ||X_B - D(Z_B)||² added.
    bank: its order, a name in `BANK_ORDERS`. consistency: what keeps the bank in step with the encoder, a name in
    `CONSISTENCIES`, with settings as "ema:momentum=0.3". zero_diagonal: exclude each sample from its own combination;
    not needed with an l2 penalty. network_rate: the networks' learning rate at full batch as a multiple of C's.
    """

    name: ClassVar[str] = "bdsc"
    title: ClassVar[str] = "BDSC"
    summary: ClassVar[str] = "a coefficient for every pair, in mini-batches against a memory bank; in one batch DSC-Net"
    gradient: Gradient = "splice"
    bank: str = "index"
    zero_diagonal: bool = False
    consistency: str = "lr"
    network_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.title, "gradient", self.gradient, words(Gradient))
        for name, parts in (("bank", BANK_ORDERS), ("consistency", CONSISTENCIES)):
            object.__setattr__(self, name, parts.canonical(self.title, name, getattr(self, name)))
        number(self.title, "network_rate", self.network_rate, above=0)
        if self.penalty_part.zero_diagonal and not self.zero_diagonal:
            raise ValueError(
                f"BDSC: zero_diagonal: expected true with penalty {self.penalty!r}, got false: each sample would "
                "express itself"
            )
        self.rule.check(self.title, self.order)

    @property
    def order(self) -> BankOrder:
        """The order of the bank that `bank` names."""
        return BANK_ORDERS.make(self.title, "bank", self.bank)

    @property
    def rule(self) -> Consistency:
        """What `consistency` names."""
        return CONSISTENCIES.make(self.title, "consistency", self.consistency)

    @property
    def full_batch(self) -> bool:
        return self.rule.full_batch

    @property
    def shuffles(self) -> bool:
        return self.order.shuffles

    def as_bdsc(self) -> BDSCMethod:
        return self


class BDSCModel(TrainedModel):
    """Encoder, decoder, coefficient matrix and memory bank.

    autoencoder
        Pre-trained; its modules are used in place.
    n_samples
        N; C takes 4 N² bytes in float32, three times that with the moments of its step.
    n_batches
        Steps an epoch.
    chunk
        When given more samples than this, the networks take so many at a time, keep none of their
        activations, and run a second time for the gradients, which are the same to rounding.

    Deterministic.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        n_samples: int,
        weights: LossWeights,
        settings: BDSCMethod,
        *,
        coefficient_init: float = 1e-8,
        n_batches: int = 1,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        like = next(autoencoder.parameters())
        self.encoder = autoencoder.encoder
        self.decoder = autoencoder.decoder
        self.settings = settings
        self.penalty, self.rule, self.order = settings.penalty_part, settings.rule, settings.order
        self.weights = weights
        self.self_expression = SelfExpression(
            n_samples,
            zero_diagonal=settings.zero_diagonal,
            init=coefficient_init,
            fused_adam=self.penalty.step(weights.coefficients),
            dtype=like.dtype,
            device=like.device,
        )
        if settings.zero_diagonal:  # no term of the loss moves it from there
            with torch.no_grad():
                self.self_expression.Coefficient.fill_diagonal_(0.0)
        self.bank = MemoryBank(n_samples, autoencoder.latent_dim, dtype=like.dtype, device=like.device)
        self.follower = self.rule.follower(self.encoder)
        self.n_batches = n_batches
        self.chunk = n_samples if chunk is None else chunk
        self._samples: Tensor | None = None
        self._price: Tensor | None = None

    def start(self, x: Tensor, how: Start) -> None:
        """Fill the bank: zero rows would poison C."""
        self.bank.fill(self.latent(x, how.batch_size))

    @torch.no_grad()
    def begin_epoch(self, x: Tensor, epoch: int, generator: torch.Generator) -> None:
        self._samples = x
        self._price = self.price()
        self.rule.begin_epoch(self._held(), epoch)

    def finish(self) -> None:
        self._samples = None
        self.self_expression.freeze()

    def coefficients(self, latent: Tensor | None = None) -> Tensor:
        """Return C (N, N), without gradient, not copied; row i is that of sample i."""
        return self.self_expression.Coefficient.detach()

    def price(self) -> Tensor:
        """Return the penalty of C as it is, weighted, as a scalar. Costs one reading of C."""
        return self.weights.coefficients * self.penalty.value(self.coefficients())

    def epoch_terms(self) -> Mapping[str, float]:
        """Return the penalty of C when the epoch began: each row moves once, so that it is that of every batch's rows
        before their step, and no batch has to gather its own.
        """
        return {} if self._price is None else {"coefficients": float(self._price)}

    def batch_loss(self, x: Tensor, rows: Tensor | None = None) -> BatchLoss:
        """Enter a batch into the bank and return its loss; the backward pass of its objective steps C.

        x: (B, *sample_shape); rows: (B,) int64, the batch's sample indices without repetition, or
        None for all N samples in order. Costs O(B N d) and the two networks. The penalty of C is neither in the
        objective, for its gradient is part of C's own step, so that no second array of C's size is ever made, nor in
        the terms: see `epoch_terms`. The measure "drift" is ||z_i - m_i|| / ||z_i||, m_i what the bank held of
        sample i before the update.
        """
        with torch.no_grad():
            self.rule.before_batch(self._held())
        z = self._encoded(x)
        live = z.detach()
        before = self.bank.features if rows is None else self.bank.features[rows]
        tiny = torch.finfo(z.dtype).tiny
        drift = ((live - before).norm(dim=1) / live.norm(dim=1).clamp_min(tiny)).sum()
        with torch.no_grad():
            self.rule.enter(self._held(), x, rows, live)

        splice = self.settings.gradient == "splice"
        if rows is None:
            expressed = self.self_expression(z if splice else self.bank.features)
        else:
            expressed = self.self_expression(z, rows, self.bank, splice=splice)

        w = self.weights
        terms = {
            "reconstruction": w.reconstruction * self._reconstruction_error(x, expressed),
            "self_expression": w.self_expression * (z - expressed).square().sum(),
        }
        if self.settings.gradient == "detach+ae":
            terms["autoencoder"] = w.reconstruction * self._reconstruction_error(x, z)
        objective = torch.stack(list(terms.values())).sum()
        return BatchLoss(objective, {name: term.detach() for name, term in terms.items()}, {"drift": drift})

    def optimizers(self, lr: float, n_batches: int) -> list[torch.optim.Optimizer]:
        """Return Adam for the networks, at `network_rate` · lr and what the rule makes of it; C's own step is set to
        lr.
        """
        self.self_expression.lr = lr
        networks = [*self.encoder.parameters(), *self.decoder.parameters()]
        rate = self.settings.network_rate * lr / self.rule.rate_divisor(n_batches)
        return [torch.optim.Adam(networks, lr=rate)]

    def _held(self) -> HeldBank:
        return HeldBank(self.bank, self.order, self.encoder, self.follower, self.n_batches, self._encode_all)

    def _encode_all(self) -> Tensor:
        assert self._samples is not None, "begin_epoch gives the samples"
        return self.latent(self._samples, self.chunk)

    def _encoded(self, x: Tensor) -> Tensor:
        """Return E(x), its activations kept if x is one chunk, and found again in the backward pass if it is more."""
        if x.shape[0] <= self.chunk:
            return self.encoder(x)  # type: ignore[no-any-return]
        return torch.cat([checkpoint(self.encoder, part, use_reentrant=False) for part in x.split(self.chunk)])

    def _reconstruction_error(self, x: Tensor, latent: Tensor) -> Tensor:
        """Return ||x - D(latent)||², as `_encoded`."""

        def error(x: Tensor, latent: Tensor) -> Tensor:
            return (x - self.decoder(latent)).square().sum()

        if x.shape[0] <= self.chunk:
            return error(x, latent)
        parts = zip(x.split(self.chunk), latent.split(self.chunk), strict=True)
        return torch.stack([checkpoint(error, *part, use_reentrant=False) for part in parts]).sum()
