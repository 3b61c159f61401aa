"""Energy-based self-expression: coefficients on a learned dictionary, from an energy between sample and atom.

Our reading of an abstract: Li et al., arXiv 2110.15037, says that an energy-based network gives the coefficients in
mini-batches and that the dictionary is learned by self-supervision, jointly and end to end. Everything else here, the
energy, the threshold, the weights and the affinity, is this package's choice, and no figure of the paper is claimed.

With A (m, h) the atoms, Z = E(X) the latent rows and q, k two small networks, the energy of sample i and atom j is
``-q(z_i)·k(a_j) / sqrt(p)``, and a coefficient is its negative after a soft threshold T_b with a learned b:

    a ||X_B - D(C A)||² + s ||Z_B - C A||² + λ Σ_ij (ρ |c_ij| + (1 - ρ)/2 c_ij²),    c_ij = T_b(q(z_i)·k(a_j) / sqrt(p))

summed over the batch; reconstruction is the self-supervised task. Codes of N samples are N × m, never N × N, in
training; samples whose codes point alike belong together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsc_ext import inner_product_self_expression
from dsclust.checks import integer
from dsclust.parts.method import (
    AutoencoderMethod,
    BatchLoss,
    Pretrained,
    Problem,
    Start,
    TrainedModel,
    register_method,
)
from dsclust.parts.networks import Autoencoder, dense_layers
from dsclust.presets import LossWeights

# Steps that a run takes at least.
_STEPS = 1000
# Atoms for each dimension of each subspace: a subspace of dimension d needs d of them, twice as many leave a choice.
_ATOMS_PER_DIMENSION = 2
# The elastic net's weight against that of the self-expression error of unit rows, and its share of ℓ1: SENet's
# published 0.9 and 200/2 (Zhang et al., CVPR 2021).
_PENALTY, _L1_SHARE = 1.0 / 100.0, 0.9


@register_method
@dataclass(frozen=True)
class EnergyMethod(AutoencoderMethod):
    """Settings of energy-based self-expression.

    atoms: m, rows of the dictionary; 0 for twice n_clusters · subspace_dim, at most N. width: hidden and output units
    of the networks q and k. Raises ValueError for less than 0 or 1.
    """

    name: ClassVar[str] = "energy"
    title: ClassVar[str] = "energy-based"
    summary: ClassVar[str] = "coefficients on a learned dictionary from an energy network, by mini-batch; experimental"
    batch_size: ClassVar[int | None] = 256
    atoms: int = 0
    width: int = 128

    def __post_init__(self) -> None:
        integer(self.title, "atoms", self.atoms, least=0)
        integer(self.title, "width", self.width, least=1)

    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        return 0

    def epochs(self, problem: Problem) -> int:
        return max(30, -(-_STEPS // problem.n_batches))

    def scale_free_weights(self, problem: Problem, sample_energy: float, latent_energy: float) -> LossWeights:
        return LossWeights.scale_free(sample_energy, latent_energy, _PENALTY)

    def model(self, problem: Problem, pretrained: Pretrained | None, generator: torch.Generator) -> EnergyModel:
        assert pretrained is not None
        wanted = self.atoms or _ATOMS_PER_DIMENSION * problem.n_clusters * problem.preset.graph.subspace_dim
        return EnergyModel(
            pretrained.autoencoder,
            min(wanted, problem.n_samples),
            pretrained.weights,
            width=self.width,
            generator=generator,
        )


class EnergyModel(TrainedModel):
    """Encoder, decoder, dictionary, the two networks of the energy and the threshold; size independent of N.

    autoencoder
        Pre-trained; its modules are used in place.
    generator
        Draws the networks' weights, and the samples whose latent rows the atoms start from.
    """

    def __init__(
        self, autoencoder: Autoencoder, atoms: int, weights: LossWeights, *, width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        like = next(autoencoder.parameters())
        self.encoder = autoencoder.encoder
        self.decoder = autoencoder.decoder
        self.dictionary = nn.Parameter(torch.zeros(atoms, autoencoder.latent_dim).to(like))
        self.query = dense_layers((autoencoder.latent_dim, width, width), generator).to(like)
        self.key = dense_layers((autoencoder.latent_dim, width, width), generator).to(like)
        self.threshold = nn.Parameter(torch.zeros(()).to(like))
        self.weights = weights
        self.scale = width**-0.5
        self.generator = generator

    def start(self, x: Tensor, how: Start) -> None:
        """Make atoms of the latent rows of samples drawn without repetition."""
        latent = self.latent(x, how.batch_size)
        chosen = torch.randperm(latent.shape[0], generator=self.generator)[: self.dictionary.shape[0]]
        self.dictionary.copy_(latent[chosen.to(latent.device)])

    def codes(self, latent: Tensor) -> Tensor:
        """Return C (n, m) of latent rows (n, h)."""
        scores = self.query(F.normalize(latent, dim=1)) @ self.key(F.normalize(self.dictionary, dim=1)).T
        return self.scale * torch.sign(scores) * F.relu(scores.abs() - self.threshold)

    def coefficients(self, latent: Tensor) -> Tensor:
        """Return cosines of the samples' codes, (N, N): how alike two samples use the dictionary. A zero code has
        none.
        """
        unit = F.normalize(self.codes(latent).detach(), dim=1)
        return unit @ unit.T

    def batch_loss(self, x: Tensor, rows: Tensor | None = None) -> BatchLoss:
        """Return the loss of a batch by itself: `rows` plays no part. Costs O(B m (h + p)) and the networks; codes are
        never stored. The measure "code_l1" is the mean ||c_i||₁: 0 says that the threshold has cut everything off.
        """
        z = self.encoder(x)
        query = self.query(F.normalize(z, dim=1))
        key = self.key(F.normalize(self.dictionary, dim=1))
        expressed, l1, l2 = inner_product_self_expression(
            query, key, self.dictionary, self.threshold, self.scale, zero_diagonal=False
        )
        assert l1 is not None
        w = self.weights
        terms = {
            "reconstruction": w.reconstruction * (x - self.decoder(expressed)).square().sum(),
            "self_expression": w.self_expression * (z - expressed).square().sum(),
            "coefficients": w.coefficients * (_L1_SHARE * l1.sum() + (1.0 - _L1_SHARE) / 2.0 * l2.sum()),
        }
        objective = torch.stack(list(terms.values())).sum()
        return BatchLoss(
            objective, {name: term.detach() for name, term in terms.items()}, {"code_l1": l1.detach().sum()}
        )

    def optimizers(self, lr: float, n_batches: int) -> list[torch.optim.Optimizer]:
        """Return Adam at lr for everything but the autoencoder, which moves at lr / n_batches as in BDSC."""
        networks = {id(p) for module in (self.encoder, self.decoder) for p in module.parameters()}
        pretrained = [p for p in self.parameters() if id(p) in networks]
        own = [p for p in self.parameters() if id(p) not in networks]
        return [torch.optim.Adam(own, lr=lr), torch.optim.Adam(pretrained, lr=lr / n_batches)]
