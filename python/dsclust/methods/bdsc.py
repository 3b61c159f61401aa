"""BDSC: deep subspace clustering by mini-batch against a memory bank (arXiv 2507.19917, sec. 3).

Owns the model, its loss for one batch and which optimizer moves what. Composes `dsc_ext`'s layer and bank; owns no
loop, no data and no randomness. The loss is DSC-Net's (Ji et al., NIPS 2017), summed over the rows B of a batch, so
that an epoch of batches adds up to the full loss:

    a ||X_B - D(Ẑ_B)||² + s ||Z_B - Ẑ_B||² + λ ||C_B||²,    Ẑ_B = C_B M,    Z_B = E(X_B)

with M the bank, after the batch has entered it; or λ ||C_B||₁ in the last term. With a single batch and live rows it
is DSC-Net.

Rows of the bank come from an encoder that has moved since. What to do about it is one setting, `consistency`: the
paper's learning rate in proportion to 1 / k, k the batches of an epoch (sec. 3.3); a momentum encoder (He et al., CVPR
2020) or averaged rows (the memory bank of Tian et al., ECCV 2020), which the paper does without; encoding the bank
anew; nothing; or no bank at all: the gradient of the full batch, exactly, in the memory of a mini-batch, because the
networks run chunk by chunk and are run again for their gradients (Chen et al., arXiv 1604.06174; the two passes of Gao
et al., arXiv 2101.06983).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dsc_ext import FusedAdam, MemoryBank, SelfExpressiveCUDA
from dsclust.parts.method import AutoencoderMethod, BatchLoss, Pretrained, Problem, TrainedModel
from dsclust.parts.networks import Autoencoder
from dsclust.presets import LossWeights, settling_epochs

Penalty = Literal["l2", "l1"]
PENALTIES = ("l2", "l1")
Gradient = Literal["splice", "detach", "detach+ae"]
GRADIENTS = ("splice", "detach", "detach+ae")
Consistency = Literal["lr", "momentum", "ema", "refresh", "fresh", "exact", "none"]
CONSISTENCIES = ("lr", "momentum", "ema", "refresh", "fresh", "exact", "none")


@dataclass(frozen=True)
class PairwiseMethod(AutoencoderMethod):
    """A method with a coefficient for every pair of samples: what BDSC and DSC-Net share.

    penalty: of the coefficients, "l2" for λ||C||², as published settings have it, or "l1" for λ||C||₁. Under the latter
    each sample would express itself at the lowest price, so its diagonal is zero.
    """

    penalty: Penalty = "l2"

    def __post_init__(self) -> None:
        self._one_of("penalty", PENALTIES)

    def _one_of(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise ValueError(f"{self.title}: {name}: expected one of {', '.join(choices)}, got {value!r}")

    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        """C and two moments; its step stores no gradient. A batch's rows are gathered once, for their norm."""
        gathered = 0 if self.full_batch or rows_per_batch >= n_samples else rows_per_batch
        return (3 * n_samples + gathered) * n_samples

    def epochs(self, problem: Problem) -> int:
        return settling_epochs(problem.n_samples, problem.n_clusters, problem.preset.lr)

    def scale_free_weights(self, problem: Problem, sample_energy: float, latent_energy: float) -> LossWeights:
        # The C that averages over K equal clusters has ||C||² = K and ||C||₁ = N, and either shall cost N.
        penalty = problem.n_samples / problem.n_clusters if self.penalty == "l2" else 1.0
        return LossWeights.scale_free(sample_energy, latent_energy, penalty)

    @abstractmethod
    def options(self, problem: Problem) -> dict[str, Any]:
        """Settings of :class:`BDSC` in which the methods differ."""

    def model(self, problem: Problem, pretrained: Pretrained | None, seed: torch.Generator) -> BDSC:
        assert pretrained is not None
        return BDSC(
            pretrained.autoencoder,
            problem.n_samples,
            pretrained.weights,
            penalty=self.penalty,
            coefficient_init=problem.preset.coefficient_init,
            chunk=problem.rows_per_batch,
            **self.options(problem),
        )


@dataclass(frozen=True)
class BDSCMethod(PairwiseMethod):
    """Settings of BDSC; see :class:`BDSC` for each. Raises ValueError for an unknown one, and where two do not fit.

    refresh_every: epochs between two encodings of the bank under consistency "refresh". bank_momentum: share of an old
    row that stays under "ema". network_rate: the networks' learning rate at full batch as a multiple of C's.
    """

    name: ClassVar[str] = "bdsc"
    title: ClassVar[str] = "BDSC"
    summary: ClassVar[str] = "a coefficient for every pair, in mini-batches against a memory bank; in one batch DSC-Net"
    gradient: Gradient = "splice"
    bank: Literal["index", "fifo"] = "index"
    zero_diagonal: bool = False
    consistency: Consistency = "lr"
    refresh_every: int = 1
    bank_momentum: float = 0.5
    network_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("gradient", GRADIENTS)
        self._one_of("bank", ("index", "fifo"))
        self._one_of("consistency", CONSISTENCIES)
        if self.refresh_every < 1:
            raise ValueError(f"BDSC: refresh_every: expected at least 1, got {self.refresh_every}")
        if not 0.0 <= self.bank_momentum < 1.0:
            raise ValueError(f"BDSC: bank_momentum: expected at least 0 and less than 1, got {self.bank_momentum}")
        if not self.network_rate > 0.0:
            raise ValueError(f"BDSC: network_rate: expected more than 0, got {self.network_rate}")
        if self.penalty == "l1" and not self.zero_diagonal:
            raise ValueError(
                "BDSC: zero_diagonal: expected true with penalty 'l1', got false: each sample would express itself"
            )
        if self.bank == "fifo" and self.consistency == "ema":
            raise ValueError(
                "BDSC: bank: expected 'index' with consistency 'ema', which mixes a row with its own, got 'fifo'"
            )

    @property
    def full_batch(self) -> bool:
        return self.consistency == "exact"

    @property
    def shuffles(self) -> bool:
        return self.bank == "index"  # FIFO keeps the columns of C in place in a fixed order alone

    def check(self, shuffled: bool) -> None:
        if self.bank == "fifo" and shuffled:
            raise ValueError(
                "BDSC: bank: 'fifo' needs shuffle=False, got shuffle=True; samples would change places in the "
                "bank and with them the columns of C"
            )

    def options(self, problem: Problem) -> dict[str, Any]:
        return {
            "gradient": self.gradient,
            "zero_diagonal": self.zero_diagonal,
            "bank_update": self.bank,
            "shuffled": problem.shuffled,
            "consistency": self.consistency,
            "encoder_momentum": encoder_momentum(problem.n_batches),
            "refresh_every": self.refresh_every,
            "bank_momentum": self.bank_momentum,
            "network_rate": self.network_rate,
        }


def encoder_momentum(n_batches: int) -> float:
    """1 - 1/k for k batches an epoch, so that the average spans an epoch, but within .9 and .999."""
    return min(max(1.0 - 1.0 / n_batches, 0.9), 0.999)


class BDSC(TrainedModel):
    """Encoder, decoder, coefficient matrix and memory bank.

    autoencoder
        Pre-trained; its modules are used in place.
    n_samples
        N; C takes 4 N² bytes in float32, three times that with the moments of its step.
    penalty
        "l2" adds λ||C||² to the loss, "l1" λ||C||₁, which needs `zero_diagonal`.
    gradient
        What of the bank carries gradient. "splice": the batch's own rows are live, so the
        reconstruction reaches the encoder through C_BB; with one batch this is DSC-Net. "detach":
        none, so the encoder sees the self-expression error only. "detach+ae": "detach" with the
        plain autoencoder term a ||X_B - D(Z_B)||² added.
    zero_diagonal
        Exclude each sample from its own combination. Not needed with an l2 penalty.
    bank_update, shuffled
        "index" or "fifo"; "fifo" needs `shuffled` to be False.
    consistency
        What keeps the bank in step with the encoder. "lr": the networks' rate is divided by the
        number of batches. "momentum": an encoder that follows the trained one,
        ``θ' <- m θ' + (1 - m) θ`` before each step with m = `encoder_momentum`, writes the bank.
        "ema": a row of the bank is mixed with its old self, `bank_momentum` of which stays.
        "refresh": all of the bank is encoded anew before every `refresh_every`-th epoch; "fresh":
        before every step, so that no row is ever stale, at k times the cost of encoding. "none":
        nothing. "exact": all samples in one step; nothing for the model to do but to be given them.
    network_rate
        Multiple of the rate of C that the networks move at.
    chunk
        When given more samples than this, the networks take so many at a time, keep none of their
        activations, and run a second time for the gradients, which are the same to rounding.

    Raises ValueError for an unknown mode and for FIFO with shuffling. Deterministic.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        n_samples: int,
        weights: LossWeights,
        *,
        penalty: Penalty = "l2",
        gradient: Gradient = "splice",
        zero_diagonal: bool = False,
        coefficient_init: float = 1e-8,
        bank_update: Literal["index", "fifo"] = "index",
        shuffled: bool = False,
        consistency: Consistency = "lr",
        encoder_momentum: float = 0.9,
        refresh_every: int = 1,
        bank_momentum: float = 0.5,
        network_rate: float = 1.0,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("penalty", penalty, PENALTIES),
            ("gradient", gradient, GRADIENTS),
            ("consistency", consistency, CONSISTENCIES),
        ):
            if value not in choices:
                raise ValueError(f"BDSC: {name}: expected one of {', '.join(choices)}, got {value!r}")
        like = next(autoencoder.parameters())
        place: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
        l2 = penalty == "l2"
        self.encoder = autoencoder.encoder
        self.decoder = autoencoder.decoder
        self.self_expression = SelfExpressiveCUDA(
            n_samples,
            zero_diagonal=zero_diagonal,
            init=coefficient_init,
            fused_adam=FusedAdam(
                weight_decay=2.0 * weights.coefficients if l2 else 0.0, l1=0.0 if l2 else weights.coefficients
            ),
            **place,
        )
        if zero_diagonal:  # no term of the loss moves it from there
            with torch.no_grad():
                self.self_expression.Coefficient.fill_diagonal_(0.0)
        self.bank = MemoryBank(n_samples, autoencoder.latent_dim, update=bank_update, shuffled=shuffled, **place)
        self.follower: nn.Module | None = None
        if consistency == "momentum":
            self.follower = copy.deepcopy(self.encoder).requires_grad_(False)
        self.weights = weights
        self.penalty = penalty
        self.gradient = gradient
        self.consistency = consistency
        self.encoder_momentum = encoder_momentum
        self.refresh_every = refresh_every
        self.bank_momentum = bank_momentum
        self.network_rate = network_rate
        self.chunk = n_samples if chunk is None else chunk
        self._samples: Tensor | None = None

    def start(self, x: Tensor, latent: Tensor) -> None:
        """Fills the bank: zero rows would poison C."""
        self.bank.fill(latent)

    def begin_epoch(self, x: Tensor, epoch: int, generator: torch.Generator) -> None:
        if self.consistency == "fresh":
            self._samples = x
        elif self.consistency == "refresh" and epoch % self.refresh_every == 0:
            self._refresh(x)

    def finish(self) -> None:
        self._samples = None
        self.self_expression.freeze()

    def coefficients(self, latent: Tensor | None = None) -> Tensor:
        """C (N, N), without gradient, not copied; row i is that of sample i."""
        return self.self_expression.Coefficient.detach()

    def batch_loss(self, x: Tensor, rows: Tensor | None = None) -> BatchLoss:
        """Enters a batch into the bank and returns its loss; the backward pass of its objective steps C.

        x: (B, *sample_shape); rows: (B,) int64, the batch's sample indices without repetition, or
        None for all N samples in order. Costs O(B N d) and the two networks. The penalty of C is
        not in the objective: its gradient is part of C's own step, so that no second array of C's
        size is ever made. The measure "drift" is ||z_i - m_i|| / ||z_i||, m_i what the bank held of
        sample i before the update.
        """
        if self.consistency == "fresh":
            assert self._samples is not None, "begin_epoch gives the samples"
            self._refresh(self._samples)
        z = self._encoded(x)
        live = z.detach()
        held = self.bank.features if rows is None else self.bank.features[rows]
        tiny = torch.finfo(z.dtype).tiny
        drift = ((live - held).norm(dim=1) / live.norm(dim=1).clamp_min(tiny)).sum()
        self._enter(x, rows, live)

        if rows is None and self.gradient == "splice":
            expressed = self.self_expression(z)
        elif rows is None:
            expressed = self.self_expression(self.bank.features)
        else:
            expressed = self.self_expression(z, rows, self.bank, splice=self.gradient == "splice")

        w = self.weights
        terms = {
            "reconstruction": w.reconstruction * self._reconstruction_error(x, expressed),
            "self_expression": w.self_expression * (z - expressed).square().sum(),
        }
        if self.gradient == "detach+ae":
            terms["autoencoder"] = w.reconstruction * self._reconstruction_error(x, z)
        objective = torch.stack(list(terms.values())).sum()
        logged = {name: term.detach() for name, term in terms.items()}
        C = self.coefficients() if rows is None else self.coefficients()[rows]
        norm = torch.linalg.vector_norm(C, ord=1) if self.penalty == "l1" else torch.linalg.vector_norm(C) ** 2
        logged["coefficients"] = w.coefficients * norm
        return BatchLoss(objective, logged, {"drift": drift})

    def optimizers(self, lr: float, n_batches: int) -> list[torch.optim.Optimizer]:
        """Adam for the networks at `network_rate` · lr, by n_batches with consistency "lr"; C's own step is set to lr.

        `n_batches` steps an epoch at lr / n_batches keep the encoder's travel per epoch what it is
        at full batch (arXiv 2507.19917, section 3.3), while each row of C moves once an epoch.
        """
        self.self_expression.lr = lr
        networks = [*self.encoder.parameters(), *self.decoder.parameters()]
        rate = self.network_rate * lr / (n_batches if self.consistency == "lr" else 1)
        return [torch.optim.Adam(networks, lr=rate)]

    def _encoded(self, x: Tensor) -> Tensor:
        """E(x), its activations kept if x is one chunk, and found again in the backward pass if it is more."""
        if x.shape[0] <= self.chunk:
            return self.encoder(x)  # type: ignore[no-any-return]
        return torch.cat([checkpoint(self.encoder, part, use_reentrant=False) for part in x.split(self.chunk)])

    def _reconstruction_error(self, x: Tensor, latent: Tensor) -> Tensor:
        """||x - D(latent)||², as `_encoded`."""

        def error(x: Tensor, latent: Tensor) -> Tensor:
            return (x - self.decoder(latent)).square().sum()

        if x.shape[0] <= self.chunk:
            return error(x, latent)
        parts = zip(x.split(self.chunk), latent.split(self.chunk), strict=True)
        return torch.stack([checkpoint(error, *part, use_reentrant=False) for part in parts]).sum()

    @torch.no_grad()
    def _refresh(self, x: Tensor) -> None:
        self.bank.fill(torch.cat([self.encoder(part) for part in x.split(self.chunk)]))

    @torch.no_grad()
    def _enter(self, x: Tensor, rows: Tensor | None, live: Tensor) -> None:
        """Writes a batch with latent rows `live` to the bank."""
        if self.consistency == "fresh":
            return  # it is there
        if self.follower is not None:
            for follower, leader in zip(self.follower.parameters(), self.encoder.parameters(), strict=True):
                follower.lerp_(leader, 1.0 - self.encoder_momentum)
            live = self.follower(x)
        if self.consistency == "ema":
            if rows is None:
                self.bank.features.lerp_(live, 1.0 - self.bank_momentum)
            else:
                self.bank.scatter(rows, live, momentum=self.bank_momentum)
        elif rows is None:
            self.bank.fill(live)
        else:
            self.bank.update(rows, live)
