"""The product engine csrc/cuda/tile.cuh by itself: kernels/tile_test.cu against NumPy, at the edges of every tile.

The numbers are drawn with more bits than TF32 holds, so that the exact path shows as exact and the fast one as fast.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simt import build

KERNELS = Path(__file__).parent / "kernels" / "tile_test.cu"
STORAGE = {"f32": 0, "f64": 1, "f16": 2, "bf16": 3}
FLOAT32, TF32, FLOAT64 = 2e-6, 2e-3, 1e-14  # of the norms of the two rows multiplied


def stored(values: np.ndarray, storage: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers as they lie in memory, and what they are."""
    if storage == "bf16":
        bits = values.astype(np.float32).view(np.uint32) >> 16
        return bits.astype(np.uint16), (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    kept = values.astype({"f32": np.float32, "f64": np.float64, "f16": np.float16}[storage])
    return kept, kept.astype(np.float64)


class Engine:
    """Each method runs one kernel and returns (what it wrote, what it should have, the error allowed)."""

    def __init__(self, variant: str) -> None:
        path = build.build("tile_test", [KERNELS], variant)
        self.control = build.Control(path, [KERNELS])
        self.library = self.control.library
        self.library.message.restype = ctypes.c_char_p
        self.library.run_splits.restype = ctypes.c_int64
        self.library.run_splits.argtypes = [ctypes.c_int64] * 2
        self.random = np.random.default_rng(0)

    def draw(self, storage: str, rows: int, columns: int, pad: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(rows, columns), the first of rows that are `pad` longer; beyond them NaN."""
        memory, values = stored(self.random.standard_normal((rows, columns + pad)), storage)
        memory[:, columns:] = 0x7FFF if storage == "bf16" else np.nan
        return memory, values[:, :columns]

    def call(self, name: str, *arguments: np.ndarray | int) -> None:
        code = getattr(self.library, name)(
            *(a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else ctypes.c_int64(a) for a in arguments)
        )
        if code:
            raise RuntimeError(self.library.message().decode())

    def scores(
        self, storage: str, n: int, N: int, d: int, *, exact: bool = True, stages: int = 2, pad: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        A, a = self.draw("f32" if storage == "f16" else storage, n, d, pad)
        B, b = self.draw(storage, N, d, pad)
        kind = np.float64 if storage == "f64" else np.float32
        pieces = -(-N // 64)
        S = np.full((n, N), np.nan, kind)
        sums, largest = (np.full((n, pieces), np.nan, kind) for _ in range(2))
        strides = (A.strides[0] // A.itemsize, B.strides[0] // B.itemsize)
        self.call("run_scores", STORAGE[storage], A, B, n, N, d, *strides, S, sums, largest, not exact, stages)
        wanted = a @ b.T
        parts = [wanted[:, 64 * p : 64 * p + 64] for p in range(pieces)]
        found = np.concatenate([S, sums / 64, largest], axis=1)
        wanted = np.concatenate(
            [
                wanted,
                *(np.stack([of(part) for part in parts], 1) for of in (lambda x: x.sum(1) / 64, lambda x: x.max(1))),
            ],
            axis=1,
        )
        kept = storage == "bf16"
        allowed = FLOAT64 if storage == "f64" else FLOAT32 if exact or kept else TF32
        scale = np.linalg.norm(a, axis=1)[:, None] * (1 + np.linalg.norm(b, axis=1).max(initial=0))
        return found, wanted, np.broadcast_to(allowed * scale, wanted.shape)

    def attention(
        self, storage: str, n: int, N: int, d: int, e: int, *, exact: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        Q, q = self.draw("f64" if storage == "f64" else "f32", n, d)
        K, k = self.draw(storage, N, d)
        V, v = self.draw(storage, N, e)
        out = np.full((n, e), np.nan, Q.dtype)
        self.call("run_attention", STORAGE[storage], Q, K, V, n, N, d, e, out, not exact)
        positive = np.maximum(q @ k.T, 0)
        allowed = FLOAT64 if storage == "f64" else FLOAT32 if exact else TF32
        scale = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(k) * (1 + np.abs(v).sum(0))
        return out, positive @ v, allowed * scale

    def product(
        self, storage: str, B: int, N: int, d: int, *, exact: bool = True, pad: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        C, c = self.draw("f64" if storage == "f64" else "f32", N, N, pad)
        M, m = self.draw(storage, N, d, pad)
        rows = self.random.integers(-1, N, B)
        out = np.full((B, d), np.nan, C.dtype)
        strides = (C.strides[0] // C.itemsize, M.strides[0] // M.itemsize)
        self.call("run_product", STORAGE[storage], C, M, rows, B, N, d, *strides, out, not exact)
        c = c[rows] * (rows >= 0)[:, None]
        c[np.arange(N) == rows[:, None]] = 0
        allowed = FLOAT64 if storage == "f64" else FLOAT32 if exact else TF32
        scale = (1 + np.linalg.norm(c, axis=1)[:, None]) * np.linalg.norm(m, axis=0)
        return out, c @ m, allowed * scale


RUNS: dict[str, Callable[[Engine], tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
for _storage in STORAGE:
    for _exact in (True, False):
        _label = f"{_storage}-{'exact' if _exact else 'fast'}"
        _options = {"storage": _storage, "exact": _exact}
        RUNS[f"scores-{_label}"] = lambda e, o=_options: e.scores(n=70, N=131, d=33, **o)
        RUNS[f"attention-{_label}"] = lambda e, o=_options: e.attention(n=65, N=70, d=9, e=61, **o)
        RUNS[f"product-{_label}"] = lambda e, o=_options: e.product(B=66, N=45, d=35, **o)
        RUNS[f"product-16-bytes-at-a-time-{_label}"] = lambda e, o=_options: e.product(B=70, N=44, d=36, **o)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("plain")


def check(result: tuple[np.ndarray, np.ndarray, np.ndarray], name: str = "") -> None:
    found, wanted, allowed = result
    assert found.shape == wanted.shape
    wrong = ~(np.abs(found - wanted) <= allowed)
    assert not wrong.any(), f"{name}: {wrong.sum()} of {wrong.size}, first at {np.argwhere(wrong)[0]}"


@pytest.mark.parametrize("order", build.ORDERS, ids=lambda order: order[0])
@pytest.mark.parametrize("name", RUNS)
def test_agrees_with_numpy_in_every_order(engine: Engine, name: str, order: tuple[str, int]) -> None:
    engine.control.set_order(*order)
    check(RUNS[name](engine))


@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 64, 32), (63, 65, 64), (17, 8, 100), (3, 4, 0)], ids=str)
@pytest.mark.parametrize("storage", STORAGE)
def test_scores_of_any_shape_and_stride(engine: Engine, storage: str, shape: tuple[int, int, int], pad: int) -> None:
    engine.control.set_order("shuffled", 3)
    for stages in (2, 3) if storage == "f32" else (2,):
        check(engine.scores(storage, *shape, stages=stages, pad=pad))


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 32, 32), (65, 33, 64), (2, 100, 5)], ids=str)
@pytest.mark.parametrize("storage", STORAGE)
def test_products_of_any_shape_and_stride(engine: Engine, storage: str, shape: tuple[int, int, int], pad: int) -> None:
    check(engine.product(storage, *shape, pad=pad))


@pytest.mark.parametrize("run", ["scores", "attention", "product"])
def test_the_exact_path_has_the_error_of_float32_and_the_fast_one_that_of_tf32(engine: Engine, run: str) -> None:
    shape = {"scores": (64, 64, 256), "attention": (64, 64, 64, 64), "product": (64, 256, 64)}[run]
    error = {}
    for exact in (True, False):
        found, wanted, _ = getattr(engine, run)("f32", *shape, exact=exact)
        error[exact] = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert error[True] < 2e-6
    assert 1e-5 < error[False] < 2e-3, "the fast path should round to TF32, and do no worse"


def test_a_long_sum_of_positive_numbers_does_not_drift(engine: Engine) -> None:
    """Tensor cores cut when they add: 3000 additions in them would lose 1e-4 of the sum."""
    A, B = (np.abs(engine.random.standard_normal((2, 24000))).astype(np.float32) for _ in range(2))
    S, rest = np.empty((2, 2), np.float32), np.empty((2, 1), np.float32)
    engine.call("run_scores", 0, A, B, 2, 2, 24000, 24000, 24000, S, rest, rest.copy(), 0, 2)
    np.testing.assert_allclose(S, A.astype(np.float64) @ B.T, rtol=3e-6)


def test_large_and_small_numbers_survive_the_split(engine: Engine) -> None:
    A = np.array([[2.0**100, 2.0**-60, 0.0, -1.0]], np.float32)
    B = np.array([[2.0**20, 0, 0, 0], [0, 2.0**-60, 0, 0], [0, 0, 1, 0], [0, 0, 3, 1.2345678]], np.float32)
    S, rest = np.empty((1, 4), np.float32), np.empty((1, 1), np.float32)
    engine.call("run_scores", 0, A, B, 1, 4, 4, 4, 4, S, rest, rest.copy(), 0, 2)
    np.testing.assert_array_equal(S, A @ B.T)


@pytest.mark.parametrize("columns", range(8, 264, 8))
def test_no_two_lanes_meet_in_a_bank(engine: Engine, columns: int) -> None:
    """Shared memory serves 32 words of 4 bytes at a time, one from each bank, to as many lanes as ask for so many."""
    lane = np.arange(32)
    g, t = lane // 4, lane % 4
    row, column = engine.library.run_row_stride(columns), engine.library.run_column_stride
    for first in range(0, 32, 8):  # ldmatrix: 8 addresses of 4 words
        words = (lane[first : first + 8] * row)[:, None] + np.arange(4)
        assert row % 4 == 0 and len(np.unique(words % 32)) == 32
    for words in (t * column(columns, 0) + g, 2 * t * row + g):
        assert len(np.unique(words % 32)) == 32
    for words in (g * row + t, t * column(columns, 1) + g):
        for half in (words[:16], words[16:]):
            assert len(np.unique(half % 16)) == 16  # in numbers of 8 bytes
    worst = np.unique((2 * t * row + g)[:16] % 16, return_counts=True)[1].max()
    assert worst == 2, "what tile.cuh says of V in double"


def test_splits_fill_a_gpu_but_stay_long_enough(engine: Engine) -> None:
    splits = engine.library.run_splits
    assert splits(0, 100) == splits(1, 0) == splits(1, 7) == splits(1, 15) == 1
    assert splits(1, 16) == 2 and splits(1, 10**6) == 528
    assert splits(528, 10**6) == splits(10**6, 10**6) == 1
    assert splits(100, 10**6) == 5 and splits(100, 24) == 3


def run_sanitized(variant: str) -> subprocess.CompletedProcess[str]:
    build.build("tile_test", [KERNELS], variant)
    return subprocess.run(
        build.sanitized_command(variant, ["-m", "simt.test_tile", variant]),
        env={**build.sanitized_environment(variant), "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("variant", ["asan", "tsan"])
def test_clean_under_the_sanitizers(variant: str) -> None:
    done = run_sanitized(variant)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert "ERROR" not in done.stderr and "WARNING" not in done.stderr, done.stderr[-6000:]


def main(variant: str) -> None:
    engine = Engine(variant)
    for order in build.ORDERS:
        engine.control.set_order(*order)
        for name, run in RUNS.items():
            check(run(engine), name)


if __name__ == "__main__":
    main(*sys.argv[1:])
