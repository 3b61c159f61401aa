"""The benchmarks of dsc_ext: python benchmarks/run.py [--suite cpu|gpu] [--op ...] [--quick] [--out FILE.json]

Owns the plan (which shapes), the measuring order, the peak memory of each variant in a process of its own, and the
report: JSON, a table on stdout, a plot beside the JSON. README.md beside this file says how to read them. Every
variant's numbers are compared with float64 before it is timed; a wrong one ends the run with nothing written.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import self_expression
import torch
import training_step
from ceilings import Ceilings, Clock, peak_bytes, spread
from rich.console import Console
from rich.progress import track
from rich.table import Table
from self_expression import Inputs, Shape

from dsc_ext import _native

HERE = Path(__file__).resolve().parent
OPS: dict[str, ModuleType] = {"self_expression": self_expression, "training_step": training_step}
ROUNDS = (5, 31)
TINY = 64  # the size at which the memory measurement warms up


# ------------------------------------------------------------------------------------------------------------- plan


def shapes(n_samples: list[int], dims: list[int], batches: list[str]) -> Iterator[Shape]:
    for n in n_samples:
        for d in dims:
            for batch in batches:
                if batch == "N":
                    yield Shape(n, d, n, "all")
                elif int(batch) < n:
                    yield Shape(n, d, int(batch), "shuffled")
                    yield Shape(n, d, int(batch), "adjacent")


def coefficients(n: int, device: torch.device) -> torch.Tensor:
    return torch.randn(n, n, generator=torch.Generator().manual_seed(1)).mul_(0.01).to(device)


# ---------------------------------------------------------------------------------------------------------- measure


def memory_of(op: str, which: str, name: str, shape: Shape, device: torch.device) -> int:
    """Peak bytes of a variant with all it needs: C, bank, batch, moments, gradient, temporaries."""

    def work(n: int, b: int) -> None:
        size = Shape(n, shape.d, b, shape.order)
        inputs = Inputs(size, torch.full((n, n), 1e-3, device=device))
        run = OPS[op].build(name, which, size, inputs, own=True)
        for i in range(2 if op == "training_step" else 1):  # the first step makes the moments
            run(i)

    return peak_bytes(lambda: work(shape.n, shape.b), lambda: work(TINY, TINY if shape.order == "all" else 8), device)


def _report_memory(pipe: Any, threads: int, *arguments: Any) -> None:
    torch.set_num_threads(threads)
    pipe.send(memory_of(*arguments))


def memory_in_fresh_process(threads: int, *arguments: Any) -> int:
    """``memory_of`` in a process that has done nothing yet, forked from one that has imported torch and no more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dsc_ext", "torch._dynamo", "rich.progress"])
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=_report_memory, args=(its, threads, *arguments))
    process.start()
    its.close()
    try:
        return int(mine.recv())
    except EOFError:
        process.join()
        raise SystemExit(f"measuring the memory of {arguments[:4]} failed: exit code {process.exitcode}") from None
    finally:
        process.join()


def measure(
    op: str, which: str, shape: Shape, C: torch.Tensor, clock: Clock, options: argparse.Namespace
) -> dict[str, Any]:
    """One shape: every variant checked, then timed in turn, round by round."""
    module, inputs = OPS[op], Inputs(shape, C)
    names = module.names(which, shape, options.compile)
    wanted = module.expected(inputs)
    runs, errors = {}, {}
    for name in names:
        runs[name] = module.build(name, which, shape, inputs)
        errors[name] = module.error(inputs, runs[name], wanted)
        if not errors[name] <= module.TOLERANCE:
            raise SystemExit(
                f"{op}, {which}, {shape}: variant {name!r} is off by {errors[name]:.1e} "
                f"(allowed {module.TOLERANCE:.0e}); nothing was written"
            )
    del wanted

    held: list[object] = []  # a result lives until the variant's next call, as in training

    def call(name: str, i: int) -> Callable[[], None]:
        def work() -> None:
            held.clear()
            held.append(runs[name](i))

        return work

    seconds: dict[str, list[float]] = {name: [] for name in names}
    rounds = i = 0
    active = list(names)
    while i <= rounds:
        for k in range(len(active)):
            name = active[(i + k) % len(active)]  # nobody is always behind the same neighbour
            seconds[name].append(clock(call(name, i)))
        if i == 0:
            fewest, most = (3, 3) if options.quick else ROUNDS
            others = sum(taken[0] for name, taken in seconds.items() if name != "naive")
            rounds = min(max(int(options.seconds / others), fewest), most) - 1
        i += 1
        if i == 3 and "naive" in active and sum(seconds["naive"]) > options.seconds:
            active.remove("naive")  # its seconds are better spent on the close races
    held.clear()
    runs.clear()

    moved, flop = module.least_work(which, shape)
    result: dict[str, Any] = {
        "op": op, "pass": which, **asdict(shape),
        "bytes": moved, "flop": flop, "variants": {},
    }  # fmt: skip
    for name in names:
        # Pairs of the same round; the naive variant may have left early.
        pairs = [theirs / ours for theirs, ours in zip(seconds[name], seconds["ours"], strict=False)]
        result["variants"][name] = {
            "rounds": len(seconds[name]),
            "seconds": spread(seconds[name]),
            "ratio_to_ours": spread(pairs),
            "relative_error": errors[name],
        }
    contenders = [name for name in names if name not in ("naive", "compiled", "ours")]
    result["best"] = min(contenders, key=lambda name: result["variants"][name]["seconds"]["median"])
    return result


# ----------------------------------------------------------------------------------------------------------- report


def command(*words: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def conditions(device: torch.device) -> dict[str, Any]:
    """Where, with what, and in which state of the source."""
    native = _native.load()
    changes = command("git", "--no-optional-locks", "status", "--porcelain", "--", "../dsc_ext", "../csrc")
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": command("git", "rev-parse", "HEAD"),
        "uncommitted_changes": changes != "",
        "device": processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": "reference only" if native is None else native.isa if device.type == "cpu" else native.cuda_archs,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "dsc-ext": version("dsc-ext")},
        "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
    }
    if device.type == "cuda":
        found["driver"] = command("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        found["versions"]["cuda"] = torch.version.cuda
    return found


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def table(op: str, which: str, results: list[dict[str, Any]]) -> Table:
    compiled = any("compiled" in result["variants"] for result in results)
    memory = any("peak_bytes" in result["variants"]["ours"] for result in results)
    made = Table(title=f"{op}, {which}: milliseconds, times as long as ours (20th to 80th percentile)")
    for heading in ("N", "d", "B", "rows", "floor", "ours", "share"):
        made.add_column(heading, justify="left" if heading == "rows" else "right", no_wrap=True)
    others = ["naive", "best", *(["compiled"] if compiled else [])]
    for heading in ("naive", "", "best PyTorch", "", "written as", *(("compiled", "") if compiled else ())):
        made.add_column(heading, justify="left" if heading == "written as" else "right", no_wrap=True)
    if memory:
        made.add_column("peak MB naive", justify="right")
        made.add_column("best", justify="right")
        made.add_column("ours", justify="right")
    for result in results:
        variants = result["variants"] | {"best": result["variants"][result["best"]]}
        ours = variants["ours"]
        cells = [*(str(result[key]) for key in ("n", "d", "b", "order")), milliseconds(result["floor_seconds"])]
        cells += [milliseconds(ours["seconds"]["median"]), f"{ours['share_of_ceiling']:.0%}"]
        for name in others:
            if name not in variants:
                cells += ["", ""]
            else:
                ratio = variants[name]["ratio_to_ours"]
                cells.append(milliseconds(variants[name]["seconds"]["median"]))
                cells.append(f"×{ratio['median']:.2f} ({ratio['p20']:.2f} to {ratio['p80']:.2f})")
            if name == "best":
                cells.append(result["best"])
        if memory:
            for name in ("naive", "best", "ours"):
                peak = variants.get(name, {}).get("peak_bytes")
                cells.append("" if peak is None else f"{peak / 1e6:.0f}")
        made.add_row(*cells)
    return made


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Time and peak memory over N, one column a batch size, for the pass that matters most and the middle d."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullLocator

    op, which = results[-1]["op"], results[-1]["pass"]
    dims = sorted({result["d"] for result in results})
    d = dims[len(dims) // 2]
    chosen = [r for r in results if (r["op"], r["pass"], r["d"]) == (op, which, d) and r["order"] != "adjacent"]
    batches = list(dict.fromkeys("N" if r["order"] == "all" else str(r["b"]) for r in chosen))
    styles = {
        "naive": ("naive layer", "tab:red"),
        "best": ("best PyTorch", "tab:blue"),
        "ours": ("dsc_ext", "tab:green"),
    }
    size = (3.6 * len(batches), 6)
    figure, axes = pyplot.subplots(2, len(batches), figsize=size, sharex=True, sharey="row", squeeze=False)
    for column, batch in enumerate(batches):
        here = [r for r in chosen if ("N" if r["order"] == "all" else str(r["b"])) == batch]
        n = [r["n"] for r in here]
        for name, (label, colour) in styles.items():
            picked = [r["variants"][r["best"] if name == "best" else name] for r in here]
            low, middle, high = ([v["seconds"][k] * 1e3 for v in picked] for k in ("p20", "median", "p80"))
            axes[0, column].plot(n, middle, "o-", color=colour, label=label)
            axes[0, column].fill_between(n, low, high, color=colour, alpha=0.2, linewidth=0)
            if all("peak_bytes" in v for v in picked):
                axes[1, column].plot(n, [v["peak_bytes"] / 1e6 for v in picked], "o-", color=colour)
        axes[0, column].plot(n, [r["floor_seconds"] * 1e3 for r in here], "k:", label="floor")
        axes[0, column].set_title(f"B = {batch}")
        axes[1, column].set_xlabel("N")
    for axis in axes.flat:
        axis.set(xscale="log", yscale="log")
        axis.grid(alpha=0.3)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticks(sorted({r["n"] for r in chosen}), [str(n) for n in sorted({r["n"] for r in chosen})])
    axes[0, 0].set_ylabel("milliseconds")
    axes[1, 0].set_ylabel("peak memory, MB")
    axes[0, 0].legend(fontsize="small")
    figure.suptitle(f"{op}, {which}, d = {d}, float32")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_json(document: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        json.dump(document, file, indent=1, allow_nan=False)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks of dsc_ext against the naive layer and the best PyTorch.")
    parser.add_argument("--suite", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--op", choices=tuple(OPS), action="append", help="default: all of them; may be repeated")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and few rounds: does it run, not how fast")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<suite>.json")
    parser.add_argument("--threads", type=int, help="of PyTorch and the kernels; default: PyTorch's choice")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the best training step")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--n", type=int, nargs="+", help="samples; default: 2048 8192")
    parser.add_argument("--d", type=int, nargs="+", help="latent dimensions; default: 32 128 512")
    parser.add_argument("--b", nargs="+", help="batch sizes, N for all; default: 64 256 N")
    parser.add_argument("--seconds", type=float, help="aim per shape, within 5 to 31 rounds; default: 1")
    options = parser.parse_args(arguments)
    options.n = options.n or ([128, 256] if options.quick else [2048, 8192])
    options.d = options.d or ([16] if options.quick else [32, 128, 512])
    options.b = options.b or (["32", "N"] if options.quick else ["64", "256", "N"])
    options.seconds = options.seconds or (0.0 if options.quick else 1.0)
    options.out = options.out or HERE / "results" / f"{options.suite}.json"
    if not all(batch == "N" or batch.isdecimal() for batch in options.b):
        parser.error(f"--b: numbers or N, got {' '.join(options.b)}")
    if options.suite == "gpu" and not torch.cuda.is_available():
        parser.error("--suite gpu needs a CUDA device and PyTorch built for CUDA: see `python -m dsc_ext`")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cpu" if options.suite == "cpu" else "cuda")
    console = Console(width=None if sys.stdout.isatty() else 200)
    document: dict[str, Any] = {"suite": options.suite, "quick": options.quick, **conditions(device)}
    document["load_average"] = {"begin": os.getloadavg()}
    clock, ceilings = Clock(device), Ceilings(device, options.quick)

    plan = [
        (op, which, shape)
        for op in options.op or OPS
        for which in OPS[op].PASSES
        for shape in shapes(options.n, options.d, options.b)
    ]
    results: list[dict[str, Any]] = []
    C = torch.empty(0, 0)
    for op, which, shape in track(plan, "benchmarks", console=Console(stderr=True)):
        if C.shape[0] != shape.n:
            C = coefficients(shape.n, device)
        ceilings.measure(repeats=1)  # often, so that some fall into the machine's quiet moments
        result = measure(op, which, shape, C, clock, options)
        for name in () if options.no_memory or shape.order == "adjacent" else ("naive", result["best"], "ours"):
            case = (op, which, name, shape, device)
            fresh = options.suite == "cpu"
            peak = memory_in_fresh_process(torch.get_num_threads(), *case) if fresh else memory_of(*case)
            result["variants"][name]["peak_bytes"] = peak
        results.append(result)

    for result in results:
        result["floor_seconds"], result["bound"] = ceilings.floor(result["bytes"], result["flop"])
        for variant in result["variants"].values():
            variant["share_of_ceiling"] = result["floor_seconds"] / variant["seconds"]["median"]
    document["load_average"]["end"] = os.getloadavg()
    document["ceilings"] = {
        "copy_bytes_per_second": ceilings.bytes_per_second,
        "gemm_flop_per_second": ceilings.flop_per_second,
    }
    document["results"] = results
    write_json(document, options.out)
    plot(results, options.out.with_suffix(".png"))

    for op, which in dict.fromkeys((result["op"], result["pass"]) for result in results):
        console.print(table(op, which, [r for r in results if (r["op"], r["pass"]) == (op, which)]))
    if any(result["op"] == "training_step" and result["order"] == "shuffled" for result in results):
        console.print(
            "With B < N the naive step moves all N rows (Adam's momentum and the penalty); the others move the batch's "
            "rows alone. The batch's rows agree."
        )
    load = ", ".join(f"{document['load_average'][when][0]:.1f}" for when in ("begin", "end"))
    ratios = [result["variants"][result["best"]]["ratio_to_ours"]["median"] for result in results]
    console.print(
        f"{document['device']}, {document['threads']} threads, load {load}; ceilings: copy "
        f"{ceilings.bytes_per_second / 1e9:.1f} GB/s, GEMM {ceilings.flop_per_second / 1e9:.0f} GFLOP/s; "
        "geometric mean of best PyTorch over ours "
        f"×{math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}"
    )
    console.print(f"written: {options.out}, {options.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
