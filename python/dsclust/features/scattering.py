"""Wavelet scattering of images: rows that barely change when an image is shifted or bent, without anything learned.

Owns the size images are brought to, the scale of paths and the import of kymatio (extra [scattering]), whose transform
it is (Bruna & Mallat, IEEE TPAMI 35, 2013), with J = 3, L = 8 and order 2, as in the features that EnSC and SENet are
published on. Those divide every path by its peak in each image (github.com/zhangsz1998/Self-Expressive-Network,
feature_generation.py), which forgets how strong it is, and where a path has one place, as in images of 8 x 8, leaves
nothing but ones. Here a path is divided by its peak over the data unless `per_image` asks for theirs.
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

from dsclust.features.backbones import MissingExtraError, parse_size

SCALES = 3
_CELL = 2**SCALES  # pixels a side that one coefficient stands for
_PATHS = 1 + 8 * SCALES + 64 * SCALES * (SCALES - 1) // 2
_LONGEST = 64  # of "auto": 64 places of 217 paths; twice the side is four times the features
# A path this weak beside the mean intensity is rounding error, which dividing by its peak would magnify.
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

    per_image: divide every path by the largest absolute value that it takes in the image. Deterministic; about 3 ms an
    image of 32 x 32 on one core, in batches of a hundred. Raises MissingExtraError, and ValueError as
    :func:`scattering_size`.
    """

    def __init__(self, sample_shape: tuple[int, ...], resize: str = "auto", per_image: bool = False) -> None:
        super().__init__()
        channels, height, width = sample_shape
        self.size = scattering_size(resize, (height, width))
        self.per_image = per_image
        self.transform: Any = _transform(self.size)
        self.shape = (channels, _PATHS, *(side // _CELL for side in self.size))
        self.dim = math.prod(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        paths: Tensor = self.transform(x.contiguous())  # (n, c, 217, h/8, w/8)
        if self.per_image:
            paths = paths * _gain(paths.abs().amax(dim=(3, 4), keepdim=True))
        return paths.flatten(1)

    def gain(self, peaks: Tensor) -> Tensor:
        """What rows are multiplied by so that every path has the peak 1, given the peak (dim,) of each number."""
        paths = peaks.reshape(1, *self.shape).amax(dim=(3, 4), keepdim=True)
        return _gain(paths).expand(1, *self.shape).flatten()


def _gain(peak: Tensor) -> Tensor:
    """1 / peak (n, c, 217, 1, 1), 0 where a path is silent."""
    heard = peak > _SILENT * peak[:, :, :1]
    return torch.where(heard, 1.0 / peak.where(heard, 1.0), 0.0)
