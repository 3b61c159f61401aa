"""Views: random variants of samples that a contrastive loss takes for the same thing.

Owns the transforms and their draws. A view is a row of numbers, drawn from a generator apart from the sample it is
applied to, so that the views of an epoch are small, and the same whatever the batches are. Images are cropped and
resized, mirrored, and changed in brightness and contrast: SimCLR's list (Chen et al., ICML 2020) in mild doses and
without hue, for color tells objects apart and strong crops merge faces. Feature vectors get noise and dropout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Of a crop, against the image's own: SimCLR's.
_ASPECT = math.log(4 / 3)


@dataclass(frozen=True)
class ImageViews:
    """Crop, flip, brightness and contrast of images with values in 0 .. 1.

    crop: smallest share of the area that a crop keeps; 1 crops nothing. flip: mirror every other image. jitter: largest
    relative change of brightness, and of contrast. Raises ValueError naming the setting.
    """

    crop: float = 0.8
    flip: bool = True
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"views: crop: expected a share of the area in (0, 1], got {self.crop!r}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"views: jitter: expected a relative change in [0, 1), got {self.jitter!r}")

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n views (n, 7): top, left, height and width as shares of the image, ±1 mirrored, brightness, contrast."""
        u = torch.rand(n, 7, generator=generator)
        area = self.crop + (1.0 - self.crop) * u[:, 0]
        # Aspects with which the crop still fits into the image: nothing has to be drawn twice.
        widest = torch.clamp(-area.log(), max=_ASPECT)
        aspect = torch.exp((2.0 * u[:, 1] - 1.0) * widest)
        height, width = (area * aspect).sqrt().clamp_max(1.0), (area / aspect).sqrt().clamp_max(1.0)
        mirrored = torch.where((u[:, 4] < 0.5) & self.flip, -1.0, 1.0)
        brightness, contrast = (1.0 + self.jitter * (2.0 * u[:, i] - 1.0) for i in (5, 6))
        columns = (u[:, 2] * (1.0 - height), u[:, 3] * (1.0 - width), height, width, mirrored, brightness, contrast)
        return torch.stack(columns, dim=1)

    @staticmethod
    def apply(images: Tensor, views: Tensor) -> Tensor:
        """Each of the images (n, c, h, w) under its view (n, 7), of the same shape; bilinear, values in 0 .. 1."""
        top, left, height, width, mirrored, brightness, contrast = views.to(images).unbind(dim=1)
        zero = torch.zeros_like(top)
        across = torch.stack([width * mirrored, zero, 2.0 * left + width - 1.0], dim=1)
        down = torch.stack([zero, height, 2.0 * top + height - 1.0], dim=1)
        grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
        cropped = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        lit = cropped * brightness[:, None, None, None]
        mean = lit.mean(dim=(1, 2, 3), keepdim=True)
        return (mean + (lit - mean) * contrast[:, None, None, None]).clamp_(0.0, 1.0)


@dataclass(frozen=True)
class RowViews:
    """Noise and dropout for feature vectors.

    noise: standard deviation of what is added to a feature, in units of the feature's own over the samples, and the
    share of features that are replaced by their mean. Raises ValueError where it is not in [0, 1).
    """

    noise: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 1:
            raise ValueError(f"views: noise: expected a number in [0, 1), got {self.noise!r}")

    def draw(self, n: int, features: int, generator: torch.Generator) -> Tensor:
        """n views (n, 2, features): standard normal noise times `noise`, and 1 for what is kept or 0."""
        noise = self.noise * torch.randn(n, features, generator=generator)
        kept = torch.rand(n, features, generator=generator) >= self.noise
        return torch.stack([noise, kept.to(noise)], dim=1)

    @staticmethod
    def apply(rows: Tensor, views: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Rows (n, f) under their views; mean and spread (f,) are those of the features."""
        noise, kept = views.to(rows).unbind(dim=1)
        return mean + kept * (rows + spread * noise - mean)
