"""Samples on the scale that the weights of a preset were chosen for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dsclust.presets import Preset


def prepare(
    X: npt.NDArray[np.float32],
    pixel_range: tuple[float, float] | None,
    preset: Preset,
    magnitude: float | None = None,
) -> npt.NDArray[np.float32]:
    """Bring samples to the scale the preset's weights were chosen for.

    X: (n, c, h, w) or (n, f); pixel_range: the scale its values live on, None if unknown. Data on
    another known scale are mapped linearly to the preset's, for a published weight of the
    self-expression error means nothing without its units. Where the preset has no scale, values are divided by
    `magnitude`, the largest of X unless given: that of the data a model was fitted to.

    Raises ValueError where the shape of a sample is not the preset's, where the preset needs a scale and
    the data's is unknown, where values leave the scale they are said to have, and for negative
    values under a convolutional network, whose last layer is a ReLU.
    """
    shape = tuple(int(s) for s in X.shape[1:])
    if preset.image_shape is not None and shape != preset.image_shape:
        raise ValueError(f"preset {preset.name}: expected samples of shape {preset.image_shape}, got {shape}")
    if len(shape) != (3 if preset.channels else 1):
        kind = "images (c, h, w)" if preset.channels else "feature vectors (f,)"
        raise ValueError(f"preset {preset.name}: expected {kind}, got samples of shape {shape}")
    low, high = float(X.min()), float(X.max())
    if preset.pixel_range is None:
        scale = max(abs(low), abs(high)) if magnitude is None else magnitude
        prepared = X / np.float32(scale) if scale > 0 else X
    else:
        if pixel_range is None:
            raise ValueError(
                f"preset {preset.name}: expected pixels on the scale {preset.pixel_range}; the "
                f"data's values {low:g}..{high:g} leave their scale open, so pass pixel_range=, "
                "such as (0, 255)"
            )
        if low < pixel_range[0] or high > pixel_range[1]:
            raise ValueError(
                f"preset {preset.name}: pixel_range: got {pixel_range}, but values reach from {low:g} to {high:g}"
            )
        (a, b), (c, d) = pixel_range, preset.pixel_range
        prepared = X if (a, b) == (c, d) else (X - np.float32(a)) * np.float32((d - c) / (b - a)) + np.float32(c)
    if preset.channels and prepared.min() < 0:
        raise ValueError(
            f"preset {preset.name}: images must not be negative (the network ends in a ReLU), got values from {low:g}"
        )
    return np.ascontiguousarray(prepared, dtype=np.float32)
