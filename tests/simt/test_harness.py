"""The emulator itself: right kernels give right numbers in every order, and each planted bug is caught and named.

The kernels are in kernels/self_test.cu; lines there that carry a bug are marked PLANTED; the reports must name them.
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

KERNELS = Path(__file__).parent / "kernels" / "self_test.cu"
BUGS = {
    name: number
    for number, name in enumerate(
        "none missing_barrier out_of_bounds out_of_shared missing_wait divergent_barrier exit_before_barrier "
        "inactive_lane partial_mask misaligned exited_lane divergent_mma blocks_collide".split()
    )
}

MARKS = {  # in the messages below: the line of that bug
    "{inactive}": "lane 16",
    "{partial}": "own lane",
    "{exited}": "lane 9 has exited",
    "{elsewhere}": "elsewhere than the product",
    "{row}": "row off by a float",
    "{last}": "lane 31 has exited",
}


def planted(text: str) -> int:
    """The line of KERNELS marked ``PLANTED: text``."""
    lines = KERNELS.read_text().splitlines()
    (found,) = (number for number, line in enumerate(lines, 1) if f"PLANTED: {text}" in line)
    return found


class Harness:
    """kernels/self_test.cu behind numpy: a method runs one kernel, returns what it wrote and what it should have."""

    def __init__(self, variant: str) -> None:
        path = build.build("self_test", [KERNELS], variant)
        self.control = build.Control(path, [KERNELS])
        self.library = self.control.library
        self.library.message.restype = ctypes.c_char_p
        self.random = np.random.default_rng(0)

    def call(self, name: str, *arguments: np.ndarray | int) -> None:
        code = getattr(self.library, name)(
            *(a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in arguments)
        )
        if code:
            raise RuntimeError(self.library.message().decode())

    def matmul(self, bug: str = "none", n: int = 33, k: int = 50, m: int = 20) -> tuple[np.ndarray, np.ndarray]:
        a = self.random.standard_normal((n, k), dtype=np.float32)
        b = self.random.standard_normal((k, m), dtype=np.float32)
        c = np.full((n, m), np.nan, np.float32)
        self.call("run_matmul", a, b, c, n, k, m, BUGS[bug])
        return c, a @ b

    def matmul_64(self, n: int = 70, k: int = 40, m: int = 130) -> tuple[np.ndarray, np.ndarray]:
        a = self.random.standard_normal((n, k), dtype=np.float32)
        b = self.random.standard_normal((k, m), dtype=np.float32)
        c = np.full((n, m), np.nan, np.float32)
        self.call("run_matmul_64", a, b, c, n, k, m)
        return c, a @ b

    def row_sum(self, bug: str = "none", kind: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
        values = self.random.integers(-99, 99, (5, 300)).astype(kind)
        out = np.full(5, np.nan, kind)
        self.call(f"run_row_sum_{'double' if kind is np.float64 else 'float'}", values, out, *values.shape, BUGS[bug])
        return out, values.sum(1)

    def histogram(self, bug: str = "none") -> tuple[np.ndarray, np.ndarray]:
        n, bins = 500, 13
        values = self.random.integers(0, bins, n).astype(np.int32)
        weights = self.random.integers(0, 9, n).astype(np.float32)
        counts, sums = np.zeros(bins, np.uint32), np.zeros(bins, np.float32)
        largest = np.full(1, -1, np.int32)
        self.call("run_histogram", values, weights, n, counts, sums, largest, bins, BUGS[bug])
        expected = [np.bincount(values, minlength=bins), np.bincount(values, weights, bins), [values.max()]]
        return np.concatenate([counts, sums, largest]), np.concatenate(expected)

    def mirror(self, bug: str = "none", tiles: int = 5, tile: int = 64) -> tuple[np.ndarray, np.ndarray]:
        values = self.random.standard_normal((tiles, tile), dtype=np.float32)
        out = np.full((tiles, tile), np.nan, np.float32)
        self.call("run_mirror", values, out, tiles, tile, BUGS[bug])
        return out, values + values[:, ::-1]

    def collectives(self) -> tuple[np.ndarray, np.ndarray]:
        values = self.random.integers(-50, 50, 64).astype(np.int32)
        out = np.zeros((64, 12), np.int64)
        self.call("run_collectives", values, out)
        lane = np.arange(64)
        segment, half = lane // 8 * 8, lane // 16 * 16
        expected = np.empty_like(out)
        expected[:, 0] = values[segment + 3]
        expected[:, 1] = values[np.where(lane - 3 < segment, lane, lane - 3)]
        expected[:, 2] = values.astype(np.int64)[np.where(lane + 2 > segment + 7, lane, lane + 2)] << 33
        expected[:, 3] = values[lane ^ 9]
        positive = values > 0
        votes = [int((positive[h : h + 16] * (1 << np.arange(16))).sum()) << (h % 32) for h in half]
        expected[:, 4] = np.array(votes, np.uint32)
        expected[:, 5] = [(values[h : h + 16] > 40).any() + 2 * (values[h : h + 16] > -40).all() for h in half]
        expected[:, 6] = positive.sum()
        expected[:, 7] = (values > 45).any()
        expected[:, 8] = (values > -60).all()
        bits = [f"{int(v) & 0xFFFFFFFF:032b}" for v in values]
        first, leading = [b[::-1].find("1") + 1 for b in bits], [(b + "1").find("1") for b in bits]
        expected[:, 9] = [b.count("1") + 100 * f + 10000 * z for b, f, z in zip(bits, first, leading, strict=True)]
        expected[:, 10] = [int(b[::-1], 2) for b in bits]
        expected[:, 11] = np.where(lane % 32 < 16, -1, values[lane ^ 1])
        return out, expected

    def tf32_product(
        self, bug: str = "none", rounded: bool = False, whole: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        def draw(*shape: int) -> np.ndarray:
            drawn = self.random.integers(-999, 999, shape) if whole else self.random.standard_normal(shape)
            return drawn.astype(np.float32)

        a, b, acc = draw(16, 8), draw(8, 8), draw(16, 8)
        a[3, :2], b[:2, 5] = (0, -0.0), (0, 2.0**-130)
        seen_a, seen_b = as_tf32(a, rounded), as_tf32(b, rounded)
        expected = acc + seen_a.astype(np.float64) @ seen_b
        self.call("run_tf32_product", a, b, acc, rounded, BUGS[bug])
        return acc, expected

    def f64_product(self, bug: str = "none") -> tuple[np.ndarray, np.ndarray]:
        a, b, acc = (self.random.standard_normal(shape) for shape in ((8, 4), (4, 8), (8, 8)))
        expected = acc + a @ b
        self.call("run_f64_product", a, b, acc, BUGS[bug])
        return acc, expected

    def copy_some(self) -> tuple[np.ndarray, np.ndarray]:
        values, out = self.random.standard_normal((32, 4), dtype=np.float32), np.full((5, 32, 4), np.nan, np.float32)
        for valid in range(5):
            self.call("run_copy_some", values, out[valid], valid)
        return out, np.where(np.arange(4) < np.arange(5)[:, None, None], values, 0)

    def fresh_memory(self) -> tuple[np.ndarray, np.ndarray]:
        out = np.zeros((2, 8), np.uint32)
        self.call("run_fresh_memory", out)
        return out, np.full((2, 8), 0xCDCDCDCD, np.uint32)


def as_tf32(values: np.ndarray, rounded: bool) -> np.ndarray:
    """float32 with 10 of 23 mantissa bits: cut, or rounded to nearest with ties away from zero."""
    fraction, exponent = np.frexp(values.astype(np.float64))
    scaled = np.abs(fraction) * 2**11
    kept = np.floor(scaled + 0.5) if rounded else np.floor(scaled)
    return np.ldexp(np.copysign(kept, fraction) / 2**11, exponent).astype(np.float32)


RIGHT: dict[str, Callable[[Harness], tuple[np.ndarray, np.ndarray]]] = {
    "matmul": Harness.matmul,
    "matmul_64": Harness.matmul_64,
    "row_sum_double": Harness.row_sum,
    "row_sum_float": lambda harness: harness.row_sum(kind=np.float32),
    "histogram": Harness.histogram,
    "mirror": Harness.mirror,
    "collectives": Harness.collectives,
    "tf32_product": Harness.tf32_product,
    "f64_product": Harness.f64_product,
    "copy_some": Harness.copy_some,
    "fresh_memory": Harness.fresh_memory,
}


@pytest.fixture(scope="module")
def harness() -> Harness:
    return Harness("plain")


def agrees(pair: tuple[np.ndarray, np.ndarray]) -> bool:
    return bool(np.allclose(*pair, rtol=1e-5, atol=1e-4))


@pytest.mark.parametrize("order", build.ORDERS, ids=lambda order: order[0])
@pytest.mark.parametrize("name", RIGHT)
def test_right_kernels_agree_with_numpy_in_every_order(harness: Harness, name: str, order: tuple[str, int]) -> None:
    harness.control.set_order(*order)
    np.testing.assert_allclose(*RIGHT[name](harness), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rounded", [False, True], ids=["cut", "rounded"])
def test_tensor_cores_see_tf32(harness: Harness, rounded: bool) -> None:
    found, expected = harness.tf32_product(rounded=rounded, whole=False)
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-7)  # the result keeps 24 bits, cut


@pytest.mark.parametrize(
    ("name", "bug"),
    [
        ("matmul", "missing_barrier"),
        ("row_sum", "missing_barrier"),
        ("mirror", "missing_barrier"),
        ("mirror", "missing_wait"),
    ],
)
def test_a_missing_barrier_or_wait_gives_wrong_numbers(harness: Harness, name: str, bug: str) -> None:
    wrong = []
    for order in build.ORDERS:
        harness.control.set_order(*order)
        wrong.append(not agrees(getattr(harness, name)(bug)))
    assert any(wrong)


@pytest.mark.parametrize(
    ("name", "bug", "message"),
    [
        (
            "row_sum",
            "divergent_barrier",
            r"divergent barrier: thread \(\d+,0,0\) of block \(\d,0,0\) is in __syncthreads at .*self_test",
        ),
        (
            "row_sum",
            "exit_before_barrier",
            r"deadlock: .*waits in __syncthreads at .*self_test.cu:\d+; thread \(40,0,0\).* has exited",
        ),
        (
            "row_sum",
            "inactive_lane",
            r"thread \(\d+,0,0\) .*reads lane \d+, which takes no part in the shuffle at .*:{inactive}",
        ),
        ("row_sum", "partial_mask", r"thread \(\d+,0,0\) .*is not named in its own mask 0x7fffffff at .*:{partial}"),
        (
            "tf32_product",
            "exited_lane",
            r"thread \(\d+,0,0\) .*is in ldmatrix at .*:{exited}, which takes the whole warp, but lane 9 has exited",
        ),
        (
            "tf32_product",
            "divergent_mma",
            r"divergent warp: .*(ldmatrix at .*__syncwarp at .*:{elsewhere}|__syncwarp at .*:{elsewhere}.*ldmatrix at)",
        ),
        ("tf32_product", "misaligned", r"ldmatrix of a row that is not 16-byte aligned at .*:{row}"),
        (
            "f64_product",
            "exited_lane",
            r"in mma f64 at .*:{last}, which takes the whole warp, but lane 31 has exited",
        ),
        ("mirror", "misaligned", r"thread \(\d+,0,0\) .*cp.async of 16 bytes is misaligned at .*ptx.cuh:\d+"),
    ],
)
@pytest.mark.parametrize("order", build.ORDERS, ids=lambda order: order[0])
def test_a_broken_rule_is_reported_with_thread_and_line(
    harness: Harness, name: str, bug: str, message: str, order: tuple[str, int]
) -> None:
    harness.control.set_order(*order)
    for name_of, mark in MARKS.items():
        message = message.replace(name_of, str(planted(mark)))
    with pytest.raises(RuntimeError, match=message):
        getattr(harness, name)(bug)
    assert agrees(getattr(harness, name)()), "the next launch must start clean"


def test_a_block_of_1025_threads_is_refused(harness: Harness) -> None:
    with pytest.raises(RuntimeError, match=r"invalid configuration: .*block \(1025,1,1\)"):
        harness.call("run_too_large")


def test_an_unknown_order_is_refused(harness: Harness) -> None:
    with pytest.raises(ValueError, match="'sideways'"):
        harness.control.set_order("sideways")


def test_kernels_and_those_executed_are_known_by_name(harness: Harness) -> None:
    harness.row_sum()
    assert {name.split("(")[0] for name in harness.control.kernels.values()} >= {
        "matmul",
        "void row_sum<float>",
        "mirror",
    }
    assert any("row_sum<double>" in name for name in harness.control.executed())
    assert harness.control.executed() <= set(harness.control.kernels.values())


def run_sanitized(variant: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """This file as a script, in a process with the sanitizer's runtime loaded: ``arguments`` are kernel:bug."""
    build.build("self_test", [KERNELS], variant)  # here, where the compiler is not itself under the sanitizer
    return subprocess.run(
        build.sanitized_command(variant, ["-m", "simt.test_harness", variant, *arguments]),
        env={**build.sanitized_environment(variant), "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("variant", ["asan", "tsan"])
def test_right_kernels_are_clean_under_the_sanitizers(variant: str) -> None:
    done = run_sanitized(variant, *RIGHT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert "ERROR" not in done.stderr and "WARNING" not in done.stderr, done.stderr[-6000:]


@pytest.mark.parametrize(
    ("variant", "kernel", "bug", "title", "mark"),
    [
        ("asan", "matmul", "out_of_bounds", "heap-buffer-overflow", "out of bounds"),
        ("asan", "row_sum", "out_of_shared", "global-buffer-overflow", "out of static shared"),
        ("asan", "mirror", "out_of_shared", "heap-buffer-overflow", "race on a buffer, and out of dynamic shared"),
        ("tsan", "matmul", "missing_barrier", "data race", "race in a tile"),
        ("tsan", "mirror", "missing_barrier", "data race", "race on a buffer, and out of dynamic shared"),
        ("tsan", "row_sum", "missing_barrier", "data race", "race between warps"),
        ("tsan", "histogram", "blocks_collide", "data race", "race between blocks"),
    ],
)
def test_sanitizers_name_the_planted_line(variant: str, kernel: str, bug: str, title: str, mark: str) -> None:
    done = run_sanitized(variant, f"{kernel}:{bug}")
    assert done.returncode != 0
    assert title in done.stderr, done.stderr[-6000:]
    assert f"self_test.cu:{planted(mark)}" in done.stderr, done.stderr[-6000:]


def main(variant: str, *kernels: str) -> None:
    harness = Harness(variant)
    for order in build.ORDERS:
        harness.control.set_order(*order)
        for name in kernels:
            if ":" in name:
                kernel, bug = name.split(":")
                getattr(harness, kernel)(bug)
            else:
                np.testing.assert_allclose(*RIGHT[name](harness), rtol=1e-5, atol=1e-4, err_msg=name)


if __name__ == "__main__":
    main(*sys.argv[1:])
