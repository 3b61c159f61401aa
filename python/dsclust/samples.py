"""Samples wherever they lie: what reads them sees their number, their shape and blocks of rows, and copies no more.

An array or a memory map today; whoever adds another place (parts of a folder, a file too large for one array) adds a
class with these four names.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BLOCK_BYTES = 2**26  # of samples that are looked at together


@runtime_checkable
class Samples(Protocol):
    """N samples in order.

    n: N. shape: (N, f) or (N, c, h, w). dtype: of the values as they are stored.
    """

    @property
    def n(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self, lo: int, hi: int) -> npt.NDArray[np.float32]:
        """Return samples lo to hi - 1, C-contiguous in float32; not to be written to."""


class ArraySamples:
    """Samples of an array or a memory map, of any real dtype and strides; float32 in C order is never copied."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array

    @property
    def n(self) -> int:
        return int(self.array.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(side) for side in self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def read(self, lo: int, hi: int) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore"):  # whoever checks for infinity says so in words
            return np.ascontiguousarray(self.array[lo:hi], dtype=np.float32)


def as_samples(samples: Samples | npt.NDArray[Any]) -> Samples:
    """Return samples as they are, an array as `ArraySamples`."""
    return samples if isinstance(samples, Samples) else ArraySamples(np.asarray(samples))


def extremes(samples: Samples) -> tuple[float, float]:
    """Return the least and the largest value of all samples."""
    least, largest = math.inf, -math.inf
    for lo, hi in blocks(samples):
        part = samples.read(lo, hi)
        least, largest = min(least, float(part.min())), max(largest, float(part.max()))
    return least, largest


def blocks(samples: Samples) -> list[tuple[int, int]]:
    """Return the bounds of blocks that make up all samples, each of 64 MB at most in float32, or of one sample."""
    row = 4 * int(np.prod(samples.shape[1:], dtype=np.int64))
    step = max(1, BLOCK_BYTES // max(row, 1))
    return [(lo, min(lo + step, samples.n)) for lo in range(0, samples.n, step)]
