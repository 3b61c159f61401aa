"""What closed forms on centered rows share: samples as rows of unit length, on which a formula gives C."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsclust.parts.method import ClosedFormModel
from dsclust.ridge import unit_rows
from dsclust.samples import Samples


class CenteredRows(nn.Module):
    """Samples (n, ...) to rows (n, f) of unit length, less the fitted samples' mean, of unit length again."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(features))

    def fit(self, x: Tensor) -> Tensor:
        """Learn the mean of samples (N, ...) and return their rows."""
        rows, mean = unit_rows(x.flatten(1))
        self.mean.copy_(mean)
        return rows

    def forward(self, x: Tensor) -> Tensor:
        return unit_rows(x.flatten(1), self.mean)[0]


class CenteredForm(ClosedFormModel):
    """A model of centered unit rows, on which a formula gives C."""

    encoder: CenteredRows

    def __init__(self, features: int) -> None:
        super().__init__()
        self.encoder = CenteredRows(features)

    def start(self, samples: Samples, device: torch.device, dtype: torch.dtype) -> Tensor:
        return self.encoder.fit(torch.from_numpy(samples.read(0, samples.n)).to(device, dtype))
