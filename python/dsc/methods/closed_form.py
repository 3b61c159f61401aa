"""What closed forms share: samples as centred rows of unit length, on which a formula gives C."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsc.methods.method import Model
from dsc.ridge import unit_rows


class CentredRows(nn.Module):
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
    """A model of centred unit rows, on which a formula gives C."""

    encoder: CentredRows

    def __init__(self, features: int) -> None:
        super().__init__()
        self.encoder = CentredRows(features)

    def latent(self, x: Tensor, batch_size: int) -> Tensor:
        return self.encoder.fitted(x)
