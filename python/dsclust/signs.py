"""The sign of a direction is a convention: its entry of largest magnitude is positive."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def point_upwards(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return columns (n, k) with the entry of largest magnitude of each made positive; columns of zeros stay."""
    peak = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return np.where(peak < 0, -vectors, vectors)
