"""The figures of experiments: accuracy over the number of batches, over two settings, or an arm a bar."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

from dsclust.experiments.records import Record, arms_of, baselines_of
from dsclust.report import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bars(records: Sequence[Record], data: Sequence[str], columns: int | None = None) -> Figure:
    """Draw ACC of every arm and baseline, mean and every seed, a panel a data set, so many in a row (default: all)."""
    columns = columns or len(data)
    rows = -(-len(data) // columns)
    figure = new_figure(4.8 * columns, rows * (0.3 * max(len(_accuracies(records, d)) for d in data) + 1.2))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(data) :]:
        axes.set_visible(False)
    for axes, name in zip(panels, data, strict=False):
        found = _accuracies(records, name)
        for row, (values, baseline) in enumerate(found.values()):
            axes.barh(row, mean(values), color="0.8" if baseline else "tab:blue", height=0.7)
            axes.plot(values, [row] * len(values), ".", color="black", markersize=4)
        axes.set_yticks(range(len(found)), list(found))
        axes.invert_yaxis()
        axes.set(title=name, xlabel="ACC", xlim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _accuracies(records: Sequence[Record], data: str) -> dict[str, tuple[list[float], bool]]:
    arms = {label: ([r["scores"]["acc"] for r in found], False) for label, found in arms_of(records, data).items()}
    others = {label: ([r["acc"] for r in found], True) for label, found in baselines_of(records, data).items()}
    return {**arms, **others}


def over_batches(records: Sequence[Record], data: Sequence[str]) -> Figure:
    """Draw ACC over the number of batches, a line a method and its spread over seeds; baselines dashed."""
    figure = new_figure(4.8 * len(data), 3.6)
    for axes, name in zip(figure.subplots(1, len(data), squeeze=False)[0], data, strict=True):
        lines: dict[str, dict[int, list[float]]] = {}
        for label, found in arms_of(records, name).items():
            line = lines.setdefault(label.split(",")[0], {})
            line[found[0]["batches"]] = [r["scores"]["acc"] for r in found]
        for label, line in lines.items():
            counts = sorted(line)
            spreads = [stdev(line[k]) if len(line[k]) > 1 else 0.0 for k in counts]
            axes.errorbar(counts, [mean(line[k]) for k in counts], spreads, marker="o", capsize=3, label=label)
        for index, (label, rows) in enumerate(baselines_of(records, name).items()):
            axes.axhline(mean(r["acc"] for r in rows), linestyle="--", color=f"{0.3 + 0.15 * index}", label=label)
        axes.set_xscale("log", base=2)
        axes.set(title=name, xlabel="batches an epoch", ylabel="ACC")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    return figure


def heat_map(records: Sequence[Record], data: str, setting: str) -> Figure:
    """Draw ACC and drift over the number of batches and an option of the method, means over seeds."""
    cells: dict[tuple[int, float], list[Record]] = {}
    for found in arms_of(records, data).values():
        cells[found[0]["batches"], found[0]["method"][setting]] = found
    counts = sorted({k for k, _ in cells})
    values = sorted({v for _, v in cells}, reverse=True)
    figure = new_figure(9, 0.5 * len(values) + 1.8)
    panels = (
        ("ACC", "viridis", lambda r: r["scores"]["acc"], "{:.3f}"),
        ("drift of the bank in an epoch", "magma_r", lambda r: r["last_epoch"]["drift"], "{:.1e}"),
    )
    label = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5}  # read on any color
    for axes, (title, colors, value, form) in zip(figure.subplots(1, 2), panels, strict=True):
        grid = [[mean(map(value, cells[k, v])) if (k, v) in cells else float("nan") for k in counts] for v in values]
        axes.imshow(grid, cmap=colors, aspect="auto")
        for i, row in enumerate(grid):
            for j, number in enumerate(row):
                if number == number:
                    axes.text(j, i, form.format(number), ha="center", va="center", fontsize=8, bbox=label)
        axes.set_xticks(range(len(counts)), [str(k) for k in counts])
        axes.set_yticks(range(len(values)), [f"{v:g}" for v in values])
        axes.set(title=f"{data}: {title}", xlabel="batches an epoch", ylabel=setting)
    return figure
