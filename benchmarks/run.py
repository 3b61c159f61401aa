"""The benchmarks of dsc_ext: python benchmarks/run.py [--suite cpu|gpu] [--op ...] [--quick] [--out DIR]

Owns the measuring order, the peak memory of each variant in a process of its own, and the report: for every op a JSON
and a plot under DIR (default: benchmarks/results/<suite>), and a table on stdout. What is measured is said by one
module an op, in the terms README.md beside this file lists. Every variant's numbers are compared with float64 before it
is timed; a wrong one ends the run, and of that op nothing is written.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ceilings import Ceilings, Clock, peak_bytes, spread
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dsc_ext import _native

HERE = Path(__file__).resolve().parent
OPS = (  # modules beside this file, in the order of the report
    "training_step",
    "self_expression",
    "sparse_self_expression",
    "inner_product_self_expression",
    "topk_coefficients",
    "on_support",
    "info_nce",
    "symmetrize_affinity",
    "bank",
)
ROUNDS = (5, 31)
COMPARED_WITH = ("naive", "compiled")  # every variant but these and ours stands for the best a user could write


# ---------------------------------------------------------------------------------------------------------- measure


def memory_of(op: str, which: str, name: str, shape: Any, device: torch.device) -> int:
    """Peak bytes of a variant with all it needs: inputs, optimizer state, gradients, temporaries."""
    module = importlib.import_module(op)

    def work(size: Any) -> None:
        run = module.build(name, which, size, module.Inputs(size, device), own=True)
        for i in range(2):  # the first step makes the moments
            run(i)

    return peak_bytes(lambda: work(shape), lambda: work(module.tiny(shape)), device)


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
    op: str, which: str, shape: Any, device: torch.device, clock: Clock, options: argparse.Namespace
) -> dict[str, Any]:
    """One shape: every variant checked, then timed in turn, round by round."""
    module = importlib.import_module(op)
    inputs = module.Inputs(shape, device)
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
            name = active[(i + k) % len(active)]  # nobody is always behind the same neighbor
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
        "op": op, "pass": which, "shape": asdict(shape), "panel": module.panel(which, shape),
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
    contenders = [name for name in names if name not in COMPARED_WITH and not name.startswith("ours")]
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
    names = {name for result in results for name in result["variants"]}
    compared = [name for name in ("naive", "best", "compiled") if name == "best" or name in names]
    others = sorted(name for name in names if name.startswith("ours "))
    memory = any("peak_bytes" in variant for result in results for variant in result["variants"].values())
    made = Table(title=f"{op}, {which}: milliseconds, times as long as ours (20th to 80th percentile)")
    for heading in (*results[0]["shape"], "floor", "ours", "share"):
        made.add_column(heading, justify="right", no_wrap=True)
    for name in compared:
        made.add_column(name, justify="right", no_wrap=True)
        made.add_column("", justify="right", no_wrap=True)
        if name == "best":
            made.add_column("written as", no_wrap=True)
    for name in others:
        made.add_column(name, justify="right")
    measured = [*compared, "ours", *others] if memory else []
    for name in measured:
        made.add_column(f"MB {name}", justify="right")
    for result in results:
        variants = result["variants"] | {"best": result["variants"][result["best"]]}
        ours = variants["ours"]
        cells = [*map(str, result["shape"].values()), milliseconds(result["floor_seconds"])]
        cells += [milliseconds(ours["seconds"]["median"]), f"{ours['share_of_ceiling']:.0%}"]
        for name in compared:
            if name not in variants:
                cells += ["", ""]
            else:
                ratio = variants[name]["ratio_to_ours"]
                cells.append(milliseconds(variants[name]["seconds"]["median"]))
                cells.append(f"×{ratio['median']:.2f} ({ratio['p20']:.2f} to {ratio['p80']:.2f})")
            if name == "best":
                cells.append(result["best"])
        for name in others:
            cells.append(f"×{variants[name]['ratio_to_ours']['median']:.2f}" if name in variants else "")
        for name in measured:
            peak = variants.get(name, {}).get("peak_bytes")
            cells.append("" if peak is None else f"{peak / 1e6:.0f}")
        made.add_row(*cells)
    return made


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Time and peak memory over N, one column for each panel the op's module names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullLocator

    panels: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if result["panel"] is not None:
            panels.setdefault(result["panel"], []).append(result)
    if not panels:
        return
    styles = {
        "naive": ("naive", "tab:red"),
        "best": ("best other", "tab:blue"),
        "ours": ("dsc_ext", "tab:green"),
    }
    size = (3.6 * len(panels), 6)
    figure, axes = pyplot.subplots(2, len(panels), figsize=size, sharex=True, sharey="row", squeeze=False)
    for column, (title, here) in enumerate(panels.items()):
        n = [r["shape"]["n"] for r in here]
        for name, (label, color) in styles.items():
            picked = [r["variants"].get(r["best"] if name == "best" else name) for r in here]
            if None in picked:
                continue
            low, middle, high = ([v["seconds"][k] * 1e3 for v in picked] for k in ("p20", "median", "p80"))
            axes[0, column].plot(n, middle, "o-", color=color, label=label)
            axes[0, column].fill_between(n, low, high, color=color, alpha=0.2, linewidth=0)
            if all("peak_bytes" in v for v in picked):
                axes[1, column].plot(n, [v["peak_bytes"] / 1e6 for v in picked], "o-", color=color)
        axes[0, column].plot(n, [r["floor_seconds"] * 1e3 for r in here], "k:", label="floor")
        axes[0, column].set_title(title)
        axes[1, column].set_xlabel("N")
    ticks = sorted({r["shape"]["n"] for here in panels.values() for r in here})
    for axis in axes.flat:
        axis.set(xscale="log", yscale="log")
        axis.grid(alpha=0.3)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticks(ticks, [str(n) for n in ticks])
    axes[0, 0].set_ylabel("milliseconds")
    axes[1, 0].set_ylabel("peak memory, MB")
    axes[0, 0].legend(fontsize="small")
    figure.suptitle(f"{results[0]['op']}, float32")
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
    parser = argparse.ArgumentParser(description="Benchmarks of dsc_ext against what a competent user would write.")
    parser.add_argument("--suite", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--op", choices=OPS, action="append", help="default: all of them; may be repeated")
    parser.add_argument("--where", action="append", default=[], metavar="FIELD=VALUE[,VALUE]",
                        help="only shapes with such a value, e.g. n=8192 or b=64,256; may be repeated")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="tiny shapes and few rounds: does it run, not how fast")
    parser.add_argument("--out", type=Path, help="folder of the results; default: benchmarks/results/<suite>")
    parser.add_argument("--threads", type=int, help="of PyTorch and the kernels; default: PyTorch's choice")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, where a module has such a variant")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--seconds", type=float, help="aim per shape, within 5 to 31 rounds; default: 1")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (0.0 if options.quick else 1.0)
    options.out = options.out or HERE / "results" / options.suite
    for condition in options.where:
        if "=" not in condition:
            parser.error(f"--where: FIELD=VALUE, got {condition}")
    if options.suite == "gpu" and not torch.cuda.is_available():
        parser.error("--suite gpu needs a CUDA device and PyTorch built for CUDA: see `python -m dsc_ext`")
    return options


def plan(op: str, options: argparse.Namespace) -> list[tuple[str, Any]]:
    """(pass, shape) for every one that meets all of ``--where``."""
    module = importlib.import_module(op)
    allowed = {field: values.split(",") for field, _, values in (c.partition("=") for c in options.where)}
    return [
        (which, shape)
        for which in module.PASSES
        for shape in module.shapes(options.quick)
        if all(str(asdict(shape).get(field)) in values for field, values in allowed.items())
    ]


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cpu" if options.suite == "cpu" else "cuda")
    console = Console(width=None if sys.stdout.isatty() else 220)
    clock, ceilings = Clock(device), Ceilings(device, options.quick)
    ratios: list[float] = []
    for op in options.op or OPS:
        document: dict[str, Any] = {"suite": options.suite, "quick": options.quick, **conditions(device)}
        document["load_average"] = {"begin": os.getloadavg()}
        results: list[dict[str, Any]] = []
        for which, shape in track(plan(op, options), op, console=Console(stderr=True)):
            ceilings.measure(repeats=1)  # often, so that some fall into the machine's quiet moments
            result = measure(op, which, shape, device, clock, options)
            counted = (*COMPARED_WITH, result["best"])
            names = [name for name in result["variants"] if name in counted or name.startswith("ours")]
            for name in () if options.no_memory else names:
                case = (op, which, name, shape, device)
                fresh = options.suite == "cpu"
                peak = memory_in_fresh_process(torch.get_num_threads(), *case) if fresh else memory_of(*case)
                result["variants"][name]["peak_bytes"] = peak
            results.append(result)
        if not results:
            raise SystemExit(f"{op}: no shape meets --where {' --where '.join(options.where)}")
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
        write_json(document, options.out / f"{op}.json")
        plot(results, options.out / f"{op}.png")
        for which in dict.fromkeys(result["pass"] for result in results):
            console.print(table(op, which, [result for result in results if result["pass"] == which]))
        for line in getattr(importlib.import_module(op), "NOTES", ()):
            console.print(line)
        load = ", ".join(f"{document['load_average'][when][0]:.1f}" for when in ("begin", "end"))
        ratios += [result["variants"][result["best"]]["ratio_to_ours"]["median"] for result in results]
        console.print(
            f"{document['device']}, {document['threads']} threads, load {load}; written: {options.out / op}.*"
        )
    copy, gemm = ceilings.bytes_per_second / 1e9, ceilings.flop_per_second / 1e9
    console.print(
        f"ceilings: copy {copy:.1f} GB/s, GEMM {gemm:.0f} GFLOP/s; "
        f"geometric mean of best other over ours ×{math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}"
    )


if __name__ == "__main__":
    main()
