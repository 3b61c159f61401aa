"""Principal components of rows that are too many to hold: exact, in the memory of the rows asked for.

They are the leading eigenvectors of the Gram matrix of the smaller side, in float64. Rows wait in a temporary file
until they are known, so that memory does not grow by the network's numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import scipy.linalg

from dsclust.signs import point_upwards

IN_MEMORY = 2**28  # bytes of rows that wait in memory; more of them wait in a file
BLOCK = 2**23  # numbers in a block of rows on the way to a Gram matrix


def parts(n: int, size: int) -> Iterator[slice]:
    """Yield slices of `size` rows that make up all n."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


class WaitingRows:
    """Hold rows in float32 that wait for what has to be learned from all of them: in memory, or many in a file."""

    def __init__(self, width: int, scratch: Path | None) -> None:
        self.width = width
        self.file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=None if scratch is None else str(scratch))

    def __enter__(self) -> WaitingRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def append(self, rows: npt.NDArray[np.float32]) -> None:
        self.file.write(np.ascontiguousarray(rows, np.float32).tobytes())

    def read(self, part: slice) -> npt.NDArray[np.float32]:
        row = 4 * self.width
        self.file.seek(part.start * row)
        content = bytearray(self.file.read((part.stop - part.start) * row))
        return np.frombuffer(content, np.float32).reshape(-1, self.width)


def principal_components(
    block: Callable[[slice], npt.NDArray[np.float64]], n: int, f: int, count: int, subtracted: float
) -> npt.NDArray[np.float64]:
    """Return the leading right singular vectors (f, count) of rows (n, f), which come in blocks.

    subtracted: what centering took from the sum of their squares.
    """
    blocks = list(parts(n, max(1, BLOCK // f)))
    if f <= n:
        # Half of a product, and in place: the transposed block is in Fortran's order, as BLAS wants it.
        gram = np.zeros((f, f), order="F")
        for part in blocks:
            gram = scipy.linalg.blas.dsyrk(1.0, block(part).T, beta=1.0, c=gram, overwrite_c=True, lower=True)
    else:
        gram = np.empty((n, n), order="F")
        for i, part in enumerate(blocks):
            rows = block(part)
            for other in blocks[: i + 1]:
                gram[part, other] = rows @ block(other).T
    side, energy = len(gram), np.trace(gram) + subtracted
    values, vectors = scipy.linalg.eigh(
        gram, lower=True, overwrite_a=True, check_finite=False, subset_by_index=(side - count, side - 1)
    )
    values, vectors = values[::-1], vectors[:, ::-1]
    # Rows and their mean were rounded to float32: a value up to the energy of those errors belongs to them.
    zero = values <= energy * np.finfo(np.float32).eps ** 2
    if f > n:
        weights, vectors = vectors, np.zeros((f, count))
        for part in blocks:
            vectors += block(part).T @ weights[part]
        vectors /= np.where(zero, 1.0, np.linalg.norm(vectors, axis=0))
    found: npt.NDArray[np.float64] = np.where(zero, 0.0, point_upwards(vectors))
    return found
