"""What a run leaves behind: one directory of labels, matrices, figures of merit, settings, plots.

Owns the files' names and formats; `metrics.json` is written last, so that a directory with it is
complete. Draws with Matplotlib's Agg canvas, imported when the first plot is drawn.
"""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from dsclust.files import replacing, write_json
from dsclust.metrics import Record
from dsclust.samples import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS, _COEFFICIENTS, _AFFINITY = "labels.csv", "coefficients.npz", "affinity.npz"
_CONFIG, _HISTORY, _METRICS = "config.json", "history.json", "metrics.json"
_IMAGE_PIXELS = 900  # an affinity with more samples is averaged down to about this
_GRID_ROWS, _GRID_COLUMNS = 40, 12


def is_complete(directory: str | os.PathLike[str]) -> bool:
    """Tell whether `directory` holds a finished run."""
    return (Path(directory) / _METRICS).is_file()


def _commit() -> str | None:
    """Return the commit of a source checkout, with "-dirty" where it was edited; None when installed."""
    here = Path(__file__)

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here.parent), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An environment inside somebody else's repository is not a checkout of this package.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def versions() -> dict[str, str | None]:
    """Return the versions of this package (and its commit in a source checkout), Python and what it uses."""
    found: dict[str, str | None] = {"python": platform.python_version(), "commit": _commit()}
    for package in ("dsc-ext", "torch", "numpy", "scipy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def write_labels(path: str | os.PathLike[str], labels: Array) -> None:
    """Write a CSV file with columns index,label: one line a sample, in the order of the data; atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["index", "label"])
        lines.writerows((i, int(label)) for i, label in enumerate(labels))


def write_run(
    directory: str | os.PathLike[str],
    *,
    labels: Array,
    coefficients: Array | scipy.sparse.csr_array,
    affinity: Array | scipy.sparse.csr_array,
    method: Record,
    baselines: Sequence[Record],
    config: Mapping[str, Any],
    pretraining: Sequence[Mapping[str, float]],
    history: Sequence[Mapping[str, float]],
    diagnostics: Mapping[str, float],
    images: Array | None = None,
) -> Path:
    """Write a run into `directory` (made if missing) and return its path.

    labels.csv        columns index,label: one line a sample, in the order of the data
    coefficients.npz  array `coefficients` (N, N): C, row i of sample i; a sparse one as
                      `scipy.sparse.save_npz` writes it, for `scipy.sparse.load_npz`
    affinity.npz      array `affinity` (N, N), or sparse likewise
    metrics.json      the method's record (method, acc, nmi, ari, seconds; the three null without
                      true labels), under `baselines` a list of records of the same shape, and under
                      `diagnostics` what can be said without true labels
    config.json       `config` as given, and `versions`
    history.json      `pretraining` and `training`: one object an epoch
    plots/            loss.png (where something was trained), affinity.png (sorted by cluster),
                      clusters.png (only with `images` (N, c, h, w), c = 1 or 3)

    Files of these names are replaced one by one, each atomically; metrics.json goes first and comes
    last. Raises ValueError where lengths disagree or a value is not finite (JSON has no NaN).
    """
    labels = np.asarray(labels)
    n = labels.shape[0]
    for name, matrix in (("coefficients", coefficients), ("affinity", affinity)):
        if matrix.shape != (n, n):
            raise ValueError(f"write_run: {name} must be (N, N) with N = len(labels) = {n}, got {matrix.shape}")
    if images is not None and (images.ndim != 4 or images.shape[0] != n or images.shape[1] not in (1, 3)):
        raise ValueError(f"write_run: images must be ({n}, 1 or 3, height, width), got {images.shape}")
    out = Path(directory)
    out.mkdir(parents=True, exist_ok=True)
    (out / _METRICS).unlink(missing_ok=True)

    write_labels(out / _LABELS, labels)
    for path, name, matrix in ((_COEFFICIENTS, "coefficients", coefficients), (_AFFINITY, "affinity", affinity)):
        with replacing(out / path) as temporary:
            if scipy.sparse.issparse(matrix):
                scipy.sparse.save_npz(temporary, matrix)
            else:
                np.savez(temporary, allow_pickle=False, **{name: matrix})
    write_json(out / _CONFIG, {**config, "versions": versions()})
    write_json(out / _HISTORY, {"pretraining": list(pretraining), "training": list(history)})

    plots = out / "plots"
    plots.mkdir(exist_ok=True)
    draw: dict[str, Callable[[], Figure]] = {"affinity.png": lambda: affinity_figure(affinity, labels)}
    if pretraining or history:
        draw["loss.png"] = lambda: loss_figure(pretraining, history)
    if images is not None:
        draw["clusters.png"] = lambda: clusters_figure(images, labels)
    for name, figure in draw.items():
        with replacing(plots / name) as temporary:
            figure().savefig(temporary, format="png", dpi=150)
    write_json(out / _METRICS, {**method, "baselines": list(baselines), "diagnostics": dict(diagnostics)})
    return out


# Plots. Figures are built without pyplot, so no global state and no window system is touched.


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


_TERM_NAMES = {
    "loss": "loss (sum)",
    "contrastive": "contrastive",
    "reconstruction": "reconstruction",
    "self_expression": "self-expression",
    "coefficients": "penalty on C",
    "autoencoder": "plain autoencoder",
}


def loss_figure(pretraining: Sequence[Mapping[str, float]], history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the error of pre-training and the weighted terms of the loss over epochs, both logarithmic."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    if pretraining:
        epochs = [row["epoch"] for row in pretraining]
        left.plot(epochs, [row["rmse"] for row in pretraining], color="black")
        left.set_yscale("log")
    else:
        left.text(0.5, 0.5, "none in this run", ha="center", transform=left.transAxes)
    left.set(title="Autoencoder pre-training", xlabel="epoch", ylabel="RMSE (data range = 1)")
    epochs = [row["epoch"] for row in history]
    for name, label in _TERM_NAMES.items():
        values = np.array([row.get(name, np.nan) for row in history])
        if (values > 0).any():
            style: dict[str, Any] = {"color": "black", "linewidth": 2} if name == "loss" else {"linewidth": 1.2}
            right.plot(epochs, np.where(values > 0, values, np.nan), label=label, **style)
    right.set_yscale("log")
    losses = [row["loss"] for row in history if row["loss"] > 0]
    if losses:
        # C starts next to zero: its first penalty would stretch the axis over ten decades.
        right.set_ylim(bottom=max(right.get_ylim()[0], 1e-3 * min(losses)))
    right.set(title="Clustering network", xlabel="epoch", ylabel="loss, summed over samples")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _averaged(W: Array | scipy.sparse.csr_array, order: Array, pixels: int) -> Array:
    """Return W in the given order of samples, averaged over cells so that its side is at most `pixels`."""
    n = order.size
    side = min(n, pixels)
    cell = np.empty(n, dtype=np.int64)
    cell[order] = np.arange(n) * side // n
    weight = 1.0 / np.bincount(cell, minlength=side)
    pool = scipy.sparse.csr_array((weight[cell], (cell, np.arange(n))), shape=(side, n))
    pooled = pool @ W @ pool.T if scipy.sparse.issparse(W) else (pool @ (pool @ W).T).T
    return pooled.toarray() if scipy.sparse.issparse(pooled) else np.asarray(pooled)


def affinity_figure(affinity: Array | scipy.sparse.csr_array, labels: Array) -> Figure:
    """Draw the affinity with samples sorted by cluster: a good clustering shows dark diagonal blocks."""
    from matplotlib.colors import PowerNorm

    labels = np.asarray(labels)
    n = labels.size
    order = np.argsort(labels, kind="stable")
    shown = _averaged(affinity, order, _IMAGE_PIXELS)
    positive = shown[shown > 0]
    # The diagonal and a few heavy edges would leave everything else white.
    top = float(np.quantile(positive, 0.99)) if positive.size else 1.0
    figure = new_figure(7.2, 6.4)
    axes = figure.subplots()
    picture = axes.imshow(
        shown,
        cmap="Greys",
        norm=PowerNorm(0.5, vmin=0.0, vmax=top, clip=True),
        extent=(0, n, n, 0),
        interpolation="nearest",
    )
    names, sizes = np.unique(labels, return_counts=True)
    ends = np.cumsum(sizes)
    for begin, end in zip(ends - sizes, ends, strict=True):
        axes.plot(
            [begin, end, end, begin, begin],
            [begin, begin, end, end, begin],
            color="tab:red",
            linewidth=0.8,
        )
    few = len(names) <= 25
    centers = ends - sizes / 2
    axes.set_xticks(centers if few else [], [str(k) for k in names] if few else [])
    axes.set_yticks(centers if few else [], [str(k) for k in names] if few else [])
    axes.tick_params(length=0)
    title = f"Affinity of {n} samples, sorted by cluster ({len(names)} clusters, framed)"
    axes.set(title=title, xlabel="cluster", ylabel="cluster", xlim=(0, n), ylim=(n, 0))
    scale = "affinity" if n <= _IMAGE_PIXELS else "mean affinity of the samples in a pixel"
    figure.colorbar(picture, ax=axes, label=scale, extend="max", shrink=0.9)
    return figure


def clusters_figure(images: Array, labels: Array) -> Figure:
    """Draw a row of sample images for each cluster (the 40 largest), spread evenly over its members."""
    labels = np.asarray(labels)
    names, sizes = np.unique(labels, return_counts=True)
    largest = np.sort(np.argsort(-sizes, kind="stable")[:_GRID_ROWS])
    rows = len(largest)
    channels, height, width = images.shape[1:]
    # One picture for all, cells apart by a white line: far quicker than an axes per image.
    gap = max(1, round(0.06 * min(height, width)))
    canvas = np.ones((rows * (height + gap) - gap, _GRID_COLUMNS * (width + gap) - gap, channels))
    low, high = float(images.min()), float(images.max())
    for r, k in enumerate(largest):
        members = np.flatnonzero(labels == names[k])
        count = min(members.size, _GRID_COLUMNS)
        picks = members[np.linspace(0, members.size - 1, count).round().astype(int)]
        for c, pick in enumerate(picks):
            pixels = np.moveaxis(images[pick].astype(np.float64), 0, -1)
            y, x = r * (height + gap), c * (width + gap)
            canvas[y : y + height, x : x + width] = (pixels - low) / max(high - low, 1e-12)
    inches = 0.52
    figure = new_figure(1.6 + inches * _GRID_COLUMNS, 0.9 + inches * rows * (height + gap) / (width + gap))
    axes = figure.subplots()
    axes.imshow(
        canvas if channels == 3 else canvas[..., 0], cmap="gray", vmin=0, vmax=1,
        interpolation="nearest",
    )  # fmt: skip
    axes.set_yticks(
        [r * (height + gap) + height / 2 for r in range(rows)],
        [f"{names[k]}  (n={sizes[k]})" for k in largest],
    )
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    part = f"the {rows} largest of {len(names)}" if rows < len(names) else f"all {rows}"
    axes.set(title=f"Samples of each cluster ({part} clusters)", ylabel="cluster")
    return figure
