"""Wavelet scattering of images: rows that barely change when an image is shifted or bent, without anything learnt.

Owns the size images are brought to, the normalisation of paths and the import of kymatio (extra [scattering]), whose
transform it is (Bruna & Mallat, IEEE TPAMI 35, 2013). Scales, angles, order and normalisation are those of the features
that EnSC and SENet are published on (github.com/zhangsz1998/Self-Expressive-Network, feature_generation.py): J = 3,
L = 8, order 2, of each image every path divided by the largest absolute value it takes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import scipy.special
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsc.backbones import MissingExtraError, parse_size

SCALES = 3
_CELL = 2**SCALES  # pixels a side that one coefficient stands for
_LONGEST = 64  # of "auto": 64 places of 217 paths; twice the side is four times the features
# A path this weak beside the image's mean intensity is rounding error, which dividing by its peak would magnify.
_SILENT = 1e-5


def scattering_size(resize: str, image_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) that images of (h, w) are resampled to.

    "auto": both sides are rounded up to multiples of 8 (28 to 32, as published), after the longer one was brought down
    to 64 where it is above. "2": twice the size. "32x32": that. ValueError for anything else and for a side below 8.
    """
    numbers = parse_size(resize)
    if numbers is None:
        scale = min(_LONGEST / max(image_size), 1.0)
        height, width = (_CELL * math.ceil(side * scale / _CELL - 1e-6) for side in image_size)
    elif len(numbers) == 2:
        height, width = numbers[0], numbers[1]
    else:
        height, width = (numbers[0] * side for side in image_size)
    if min(height, width) < _CELL:
        raise ValueError(f"scattering: resize: expected sides of at least {_CELL} pixels, got {height}x{width}")
    return height, width


@contextmanager
def _spherical_harmonics() -> Iterator[None]:
    """`scipy.special.sph_harm`, which kymatio 0.3 imports for its 3-D transform, where SciPy (from 1.17) has none."""
    if hasattr(scipy.special, "sph_harm"):
        yield
        return
    scipy.special.sph_harm = lambda m, n, theta, phi: scipy.special.sph_harm_y(n, m, phi, theta)
    try:
        yield
    finally:
        del scipy.special.sph_harm


def _transform(size: tuple[int, int]) -> nn.Module:
    try:
        # kymatio sets filters for warnings of its own when it is imported.
        with _spherical_harmonics(), warnings.catch_warnings():
            from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
    except ImportError as error:
        raise MissingExtraError(
            f"features 'scattering' need the package kymatio, which cannot be imported ({error}); install it with: "
            "pip install 'dsc-ext[scattering]'"
        ) from error
    transform: nn.Module = ScatteringTorch2D(J=SCALES, shape=size)
    return transform


class Scattering(nn.Module):
    """Images (n, c, h, w) to rows (n, dim), dim = 217 c ⌊h/8⌋ ⌊w/8⌋ of the size they are resampled to.

    Deterministic; about 3 ms an image of 32 x 32 on one core, in batches of a hundred. Raises MissingExtraError, and
    ValueError as :func:`scattering_size`.
    """

    def __init__(self, sample_shape: tuple[int, ...], resize: str = "auto") -> None:
        super().__init__()
        channels, height, width = sample_shape
        self.size = scattering_size(resize, (height, width))
        self.transform: Any = _transform(self.size)
        paths = 1 + 8 * SCALES + 64 * SCALES * (SCALES - 1) // 2
        self.dim = channels * paths * math.prod(side // _CELL for side in self.size)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        paths: Tensor = self.transform(x.contiguous())  # (n, c, 217, h/8, w/8)
        peak = paths.abs().amax(dim=(3, 4), keepdim=True)
        heard = peak > _SILENT * peak[:, :, :1]
        return torch.where(heard, paths / peak.where(heard, 1.0), 0.0).flatten(1)
