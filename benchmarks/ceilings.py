"""The machine under the benchmarks: its clock, its memory counter, and the two ceilings no kernel can pass.

Owns how a call is timed, how peak memory is read and how copy bandwidth and GEMM throughput are measured. Knows no op.
The ceilings are PyTorch's own copy and matrix product on random data, measured in the run whose results they judge.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

FLUSH_BYTES = {"cpu": 1 << 26, "cuda": 1 << 28}  # more than the last cache holds


class Clock:
    """Times one call from a cold cache, in seconds: CUDA events on a GPU, the monotonic clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.scratch = torch.zeros(FLUSH_BYTES[device.type] // 4, device=device)

    def __call__(self, function: Callable[[], object]) -> float:
        self.scratch.add_(1.0)
        if self.device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            function()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3
        start = time.perf_counter()
        function()
        return time.perf_counter() - start


def spread(samples: list[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile, smallest and largest."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "p20": ordered[round(0.2 * last)],
        "p80": ordered[round(0.8 * last)],
        "min": ordered[0],
        "max": ordered[last],
    }


class Ceilings:
    """Best copy bandwidth (bytes read plus bytes written, a second) and best float32 GEMM rate (FLOP a second) seen."""

    def __init__(self, device: torch.device, quick: bool) -> None:
        self.clock = Clock(device)
        floats, side = (1 << 20, 512) if quick else (1 << 26, 2048 if device.type == "cpu" else 8192)
        source = torch.randn(floats, device=device)
        target = torch.empty_like(source)
        left, right = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
        product = torch.empty_like(left)
        self._copy = lambda: target.copy_(source)
        self._gemm = lambda: torch.mm(left, right, out=product)
        self._copied, self._multiplied = 8 * floats, 2 * side**3
        self.bytes_per_second = self.flop_per_second = 0.0
        self.measure()

    def measure(self, repeats: int = 5) -> None:
        """Runs both again. A ceiling is the best ever seen: measuring all through a run rides out other load."""
        for _ in range(repeats):
            self.bytes_per_second = max(self.bytes_per_second, self._copied / self.clock(self._copy))
            self.flop_per_second = max(self.flop_per_second, self._multiplied / self.clock(self._gemm))

    def floor(self, moved: float, flop: float) -> tuple[float, str]:
        """The shortest time (s) in which these bytes and FLOP are possible at all, and which of them sets it."""
        by_bytes, by_flop = moved / self.bytes_per_second, flop / self.flop_per_second
        return max(by_bytes, by_flop), "bandwidth" if by_bytes > by_flop else "arithmetic"


def resident_bytes() -> int:
    """What this process holds now (Linux; elsewhere its peak so far)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return peak_resident_bytes()


def peak_resident_bytes() -> int:
    try:
        with open("/proc/self/status") as file:  # Linux: ru_maxrss of a child begins at what its parent held
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    except FileNotFoundError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_bytes(work: Callable[[], object], warm_up: Callable[[], object], device: torch.device) -> int:
    """Peak memory of ``work``, which makes its own inputs, above what the process held before.

    ``warm_up`` is the same at a tiny size: it brings in code, thread pools and workspaces, which are not counted. On a
    CPU the process must be fresh, because its peak cannot be reset.
    """
    if device.type == "cuda":
        warm_up()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    warm_up()
    before = resident_bytes()
    work()
    return max(0, peak_resident_bytes() - before)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ (Frobenius), in float64; infinite if found is not finite."""
    found = found.to(expected.dtype)
    error = ((found - expected).norm() / expected.norm()).item()
    return error if error == error else float("inf")
