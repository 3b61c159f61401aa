"""BDSC: deep subspace clustering by mini-batch against a memory bank (arXiv 2507.19917, sec. 3).

Owns the model, its loss for one batch and which optimiser moves what. Composes `dsc_ext`'s layer,
bank and optimiser; owns no loop, no data and no randomness. The loss is DSC-Net's (Ji et al., NIPS
2017), summed over the rows B of a batch, so that an epoch of batches adds up to the full loss:

    a ||X_B - D(Ẑ_B)||² + s ||Z_B - Ẑ_B||² + λ ||C_B||²,    Ẑ_B = C_B M,    Z_B = E(X_B)

with M the bank, after the batch has entered it. With a single batch and live rows it is DSC-Net.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dsc.methods.method import AutoencoderMethod, BatchLoss, Model, Pretrained, Problem
from dsc.networks import Autoencoder
from dsc.presets import LossWeights, settling_epochs
from dsc_ext.nn import MemoryBank, SelfExpressiveCUDA
from dsc_ext.optim import RowAdam

Gradient = Literal["splice", "detach", "detach+ae"]
GRADIENTS = ("splice", "detach", "detach+ae")


@dataclass(frozen=True)
class BDSCMethod(AutoencoderMethod):
    """Settings of BDSC; see :class:`BDSC` for each. Raises ValueError for an unknown one."""

    name: ClassVar[str] = "bdsc"
    title: ClassVar[str] = "BDSC"
    summary: ClassVar[str] = "a coefficient for every pair, in mini-batches against a memory bank; in one batch DSC-Net"
    gradient: Gradient = "splice"
    bank: Literal["index", "fifo"] = "index"
    zero_diagonal: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("gradient", GRADIENTS), ("bank", ("index", "fifo"))):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"BDSC: {name}: expected one of {', '.join(choices)}, got {value!r}")

    @property
    def shuffles(self) -> bool:
        return self.bank == "index"  # FIFO keeps the columns of C in place in a fixed order alone

    def check(self, shuffled: bool) -> None:
        if self.bank == "fifo" and shuffled:
            raise ValueError(
                "BDSC: bank: 'fifo' needs shuffle=False, got shuffle=True; samples would change places in the "
                "bank and with them the columns of C"
            )

    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        return 3 * n_samples**2 + rows_per_batch * n_samples  # C, two moments, the gradient of the batch's rows

    def epochs(self, problem: Problem) -> int:
        return settling_epochs(problem.n_samples, problem.n_clusters, problem.preset.lr)

    def scale_free_weights(self, problem: Problem, sample_energy: float, latent_energy: float) -> LossWeights:
        return LossWeights.scale_free(sample_energy, latent_energy, problem.n_samples / problem.n_clusters)

    def model(self, problem: Problem, pretrained: Pretrained | None, seed: torch.Generator) -> BDSC:
        assert pretrained is not None
        return BDSC(
            pretrained.autoencoder,
            problem.n_samples,
            pretrained.weights,
            gradient=self.gradient,
            zero_diagonal=self.zero_diagonal,
            coefficient_init=problem.preset.coefficient_init,
            bank_update=self.bank,
            shuffled=problem.shuffled,
        )


class BDSC(Model):
    """Encoder, decoder, coefficient matrix and memory bank.

    autoencoder
        Pre-trained; its modules are used in place.
    n_samples
        N; C takes 4 N² bytes in float32, three times that with its optimiser's moments.
    gradient
        What of the bank carries gradient. "splice": the batch's own rows are live, so the
        reconstruction reaches the encoder through C_BB; with one batch this is DSC-Net. "detach":
        none, so the encoder sees the self-expression error only. "detach+ae": "detach" with the
        plain autoencoder term a ||X_B - D(Z_B)||² added.
    zero_diagonal
        Exclude each sample from its own combination. Not needed with an l2 penalty.
    bank_update, shuffled
        "index" or "fifo"; "fifo" needs `shuffled` to be False.

    Raises ValueError for an unknown mode and for FIFO with shuffling. Deterministic.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        n_samples: int,
        weights: LossWeights,
        *,
        gradient: Gradient = "splice",
        zero_diagonal: bool = False,
        coefficient_init: float = 1e-8,
        bank_update: Literal["index", "fifo"] = "index",
        shuffled: bool = False,
    ) -> None:
        super().__init__()
        if gradient not in GRADIENTS:
            raise ValueError(f"BDSC: gradient: expected one of {', '.join(GRADIENTS)}, got {gradient!r}")
        like = next(autoencoder.parameters())
        self.encoder = autoencoder.encoder
        self.decoder = autoencoder.decoder
        self.self_expression = SelfExpressiveCUDA(
            n_samples,
            zero_diagonal=zero_diagonal,
            init=coefficient_init,
            dtype=like.dtype,
            device=like.device,
        )
        self.bank = MemoryBank(
            n_samples,
            autoencoder.latent_dim,
            update=bank_update,
            shuffled=shuffled,
            dtype=like.dtype,
            device=like.device,
        )
        self.weights = weights
        self.gradient = gradient

    def start(self, x: Tensor, latent: Tensor) -> None:
        """Fills the bank: zero rows would poison C."""
        self.bank.fill(latent)

    def coefficients(self, latent: Tensor | None = None) -> Tensor:
        """C (N, N) as it enters the product, without gradient; row i is that of sample i."""
        C = self.self_expression.Coefficient.detach()
        return C.clone().fill_diagonal_(0.0) if self.self_expression.zero_diagonal else C

    def batch_loss(self, x: Tensor, rows: Tensor | None = None) -> BatchLoss:
        """Enters a batch into the bank and returns its loss.

        x: (B, *sample_shape); rows: (B,) int64, the batch's sample indices without repetition, or
        None for all N samples in order. Costs O(B N d) and the two networks. λ||C_B||² is not in
        the objective: `RowAdam` adds its gradient as weight decay, so that no second array of C's
        size is ever made. The measure "drift" is ||z_i - m_i|| / ||z_i||, m_i what the bank held of
        sample i before the update.
        """
        z = self.encoder(x)
        live = z.detach()
        held = self.bank.features if rows is None else self.bank.features[rows]
        tiny = torch.finfo(z.dtype).tiny
        drift = ((live - held).norm(dim=1) / live.norm(dim=1).clamp_min(tiny)).sum()

        C = self.self_expression.Coefficient.detach()
        if rows is None:
            self.bank.fill(live)
            batch_coefficients = C
        else:
            self.bank.update(rows, live)
            batch_coefficients = C[rows]

        if rows is None and self.gradient == "splice":
            expressed = self.self_expression(z)
        elif rows is None:
            expressed = self.self_expression(self.bank.features)
        else:
            expressed = self.self_expression(z, rows, self.bank, splice=self.gradient == "splice")

        w = self.weights
        terms = {
            "reconstruction": w.reconstruction * (x - self.decoder(expressed)).square().sum(),
            "self_expression": w.self_expression * (z - expressed).square().sum(),
        }
        if self.gradient == "detach+ae":
            terms["autoencoder"] = w.reconstruction * (x - self.decoder(z)).square().sum()
        objective = torch.stack(list(terms.values())).sum()
        logged = {name: term.detach() for name, term in terms.items()}
        logged["coefficients"] = w.coefficients * torch.linalg.vector_norm(batch_coefficients) ** 2
        return BatchLoss(objective, logged, {"drift": drift})

    def optimizers(self, lr: float, n_batches: int) -> list[torch.optim.Optimizer]:
        """Adam for the networks at lr / n_batches and RowAdam for C at lr.

        `n_batches` steps an epoch at lr / n_batches keep the encoder's travel per epoch what it is
        at full batch (arXiv 2507.19917, section 3.3), while each row of C moves once an epoch.
        """
        networks = [*self.encoder.parameters(), *self.decoder.parameters()]
        return [
            torch.optim.Adam(networks, lr=lr / n_batches),
            RowAdam(
                [self.self_expression.Coefficient],
                lr=lr,
                weight_decay=2.0 * self.weights.coefficients,
            ),
        ]
