"""What closed forms share: samples as centered rows of unit length, on which a formula gives C."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsclust.parts.method import Model
from dsclust.ridge import unit_rows


class CenteredRows(nn.Module):
    """Samples (n, ...) to rows (n, f) of unit length, less the fitted samples' mean, of unit length again."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(features))

    def fitted(self, x: Tensor) -> Tensor:
        """Learns the mean of samples (N, ...) and returns their rows."""
        rows, mean = unit_rows(x.flatten(1))
        self.mean.copy_(mean)
        return rows

    def forward(self, x: Tensor) -> Tensor:
        return unit_rows(x.flatten(1), self.mean)[0]


class ClosedForm(Model):
    """A model of centered unit rows, on which a formula gives C."""

    encoder: CenteredRows

    def __init__(self, features: int) -> None:
        super().__init__()
        self.encoder = CenteredRows(features)

    def latent(self, x: Tensor, batch_size: int) -> Tensor:
        return self.encoder.fitted(x)
