"""SSCN: self-expression by a low-rank Gram matrix, in mini-batches, and a classifier that labels new samples.

Busch, Faerman, Schubert, Seidl: Learning self-expression metrics for scalable and inductive subspace clustering,
NeurIPS workshop 2020; released code github.com/buschju/sscn. A linear map W takes latent rows to H = Z W with one
coordinate for each of d dimensions of each of K subspaces; two samples express each other by their inner product:

    a ||X_B - D(Q Z_B)||² + s ||Z_B - Q Z_B||² + λ ||Q||²,    Q = H_B H_Bᵀ,    Z_B = E(X_B)

summed over the batch. Q is never formed in training: Q Z = H (Hᵀ Z) and ||Q|| = ||HᵀH||, so a step costs O(B h K d).
There is neither a bank nor an N×N parameter, and the model has the same size for any N.

The classifier turns H by an orthogonal matrix R towards K coordinate subspaces of dimension d each, and a sample
belongs to the one that keeps most of its length. It learns from the labels of spectral clustering.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from dsclust.parts.method import AutoencoderMethod, BatchLoss, Pretrained, Problem, TrainedModel, register_method
from dsclust.parts.networks import Autoencoder
from dsclust.presets import LossWeights, Preset

# Steps that a run takes at least: published are 30 epochs of 10 batches.
_STEPS = 300
# What ||Q||² costs where Q is the projector on the batch's subspaces, as a share of the energy of the batch. The
# published weights, all 1, give .001 on MNIST, whose images have a mean energy of about 100.
_PENALTY_SHARE = 1e-3


@register_method
@dataclass(frozen=True)
class SSCNMethod(AutoencoderMethod):
    """Settings of SSCN: none but the dimension d of a subspace, which is that of the preset."""

    name: ClassVar[str] = "sscn"
    title: ClassVar[str] = "SSCN"
    summary: ClassVar[str] = "a learned metric in mini-batches, of one size for any N; labels new samples"
    batch_size: ClassVar[int | None] = 1000
    labels_by_classifier: ClassVar[bool] = True

    def training_words(self, n_samples: int, rows_per_batch: int) -> int:
        return 0

    def epochs(self, problem: Problem) -> int:
        return max(30, -(-_STEPS // problem.n_batches))

    def scale_free_weights(self, problem: Problem, sample_energy: float, latent_energy: float) -> LossWeights:
        rank = problem.n_clusters * problem.preset.graph.subspace_dim
        return LossWeights.scale_free(sample_energy, latent_energy, _PENALTY_SHARE * problem.rows_per_batch / rank)

    def model(self, problem: Problem, pretrained: Pretrained | None, generator: torch.Generator) -> SSCNModel:
        assert pretrained is not None
        return SSCNModel(
            pretrained.autoencoder,
            problem.n_clusters,
            problem.preset.graph.subspace_dim,
            pretrained.weights,
            generator=generator,
        )

    def restore_classifier(self, tensors: Mapping[str, Tensor], preset: Preset, n_clusters: int) -> LatentClassifier:
        subspaces = tensors["subspaces"]
        inner = SubspaceClassifier(n_clusters, preset.graph.subspace_dim, subspaces.dtype)
        classifier = LatentClassifier(subspaces, inner)
        classifier.load_state_dict(dict(tensors))
        return classifier


class SSCNModel(TrainedModel):
    """Encoder, decoder and the map W, (h, K d), drawn Xavier uniform from `generator`.

    That start is large, Q Z being about as many times Z as a batch has samples, and 300 steps leave
    the loss far above that of Q = 0. It is kept: with W scaled down to a Q of norm 1 the loss ends
    10,000 times lower, and the accuracy of spectral clustering on scikit-learn's digits falls from
    .79-.86 to .48-.69 (3 seeds); ||Q||² is then about 2 a batch, where the projector on all
    subspaces has 90.

    autoencoder
        Pre-trained; its modules are used in place.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        n_clusters: int,
        subspace_dim: int,
        weights: LossWeights,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        like = next(autoencoder.parameters())
        self.encoder = autoencoder.encoder
        self.decoder = autoencoder.decoder
        W = torch.empty(autoencoder.latent_dim, n_clusters * subspace_dim)
        nn.init.xavier_uniform_(W, generator=generator)
        self.subspaces = nn.Parameter(W.to(like))
        self.subspace_dim = subspace_dim
        self.weights = weights

    def coordinates(self, latent: Tensor) -> Tensor:
        """Return H (n, K d) of latent rows (n, h)."""
        return latent @ self.subspaces

    def coefficients(self, latent: Tensor) -> Tensor:
        """Return Q = H Hᵀ (N, N), symmetric; its diagonal is not excluded (the model has no way to learn it alone)."""
        H = self.coordinates(latent).detach()
        return H @ H.T

    def classifier(
        self, latent: Tensor, labels: Tensor, n_clusters: int, generator: torch.Generator
    ) -> LatentClassifier:
        """Return W and a :class:`SubspaceClassifier` behind it, fitted here; W does not move."""
        H = self.coordinates(latent).detach()
        rotated = SubspaceClassifier(n_clusters, self.subspace_dim, H.dtype).to(H.device)
        rotated.fit(H, labels, generator=generator)
        return LatentClassifier(self.subspaces.detach().clone(), rotated)

    def batch_loss(self, x: Tensor, rows: Tensor | None = None) -> BatchLoss:
        """Return the loss of a batch by itself: `rows` plays no part. Costs O(B h K d) and the two networks."""
        z = self.encoder(x)
        h = self.coordinates(z)
        expressed = h @ (h.T @ z)
        w = self.weights
        terms = {
            "reconstruction": w.reconstruction * (x - self.decoder(expressed)).square().sum(),
            "self_expression": w.self_expression * (z - expressed).square().sum(),
            "coefficients": w.coefficients * (h.T @ h).square().sum(),
        }
        objective = torch.stack(list(terms.values())).sum()
        return BatchLoss(objective, {name: term.detach() for name, term in terms.items()}, {})

    def optimizers(self, lr: float, n_batches: int) -> list[torch.optim.Optimizer]:
        """Return Adam at lr for everything, whatever the number of batches: as published."""
        return [torch.optim.Adam(self.parameters(), lr=lr)]


class SubspaceClassifier(nn.Module):
    """K coordinate subspaces of dimension d in an orthogonal basis R (K d, K d); at first R = 1."""

    def __init__(self, n_clusters: int, subspace_dim: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.n_clusters, self.subspace_dim = n_clusters, subspace_dim
        size = n_clusters * subspace_dim
        self.rotation = nn.Linear(size, size, bias=False, dtype=dtype)
        nn.init.eye_(self.rotation.weight)

    def forward(self, h: Tensor) -> Tensor:
        """Return logits (n, K) of rows (n, K d): minus the squared distances to the subspaces, up to a constant of
        the row.
        """
        return self.rotation(h).unflatten(1, (self.n_clusters, self.subspace_dim)).square().sum(dim=2)

    def fit(
        self,
        h: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator,
        epochs: int = 30,
        batch_size: int = 1000,
        steps_per_batch: int = 10,
        lr: float = 1e-2,
    ) -> list[float]:
        """Learn R from rows (n, K d) and labels (n,) int64 in 0 .. K - 1; return the mean loss of each epoch.

        Cross-entropy by Adam, 10 steps on each batch, 30 epochs: as published, but with R = Cayley(A), A skew, where
        the released code has an Adam of its own on the manifold. Rows are first divided by the root mean square of
        their entries: the loss would otherwise depend on the unit of H. With rows of unit length instead the softmax
        stays flat, and on digits the classifier ends at odds with 5 to 8 % of the labels that it learns from, now 0.
        """
        scale = h.square().mean().sqrt().clamp_min(torch.finfo(h.dtype).tiny)
        h = h / scale
        parametrizations.orthogonal(self.rotation, orthogonal_map="cayley")
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        history = []
        for _ in range(epochs):
            order = torch.randperm(len(h), generator=generator).to(h.device)
            total = 0.0
            for rows in order.tensor_split(-(-len(h) // batch_size)):
                for _ in range(steps_per_batch):
                    loss = F.cross_entropy(self(h[rows]), labels[rows])
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                total += float(loss.detach()) * len(rows)
            history.append(total / len(h))
        parametrize.remove_parametrizations(self.rotation, "weight")  # R itself: plain to store, no solve to apply
        return history


class LatentClassifier(nn.Module):
    """Latent rows (n, h) to scores (n, K): the coordinates Z W, then the classifier of subspaces."""

    def __init__(self, subspaces: Tensor, classifier: SubspaceClassifier) -> None:
        super().__init__()
        self.subspaces: Tensor
        self.register_buffer("subspaces", subspaces)
        self.classifier = classifier

    def forward(self, latent: Tensor) -> Tensor:
        scores: Tensor = self.classifier(latent @ self.subspaces)
        return scores
