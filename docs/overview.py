"""Draws docs/overview.png, the README's picture, from a run on scikit-learn's digits:

    dsclust fit --data digits --method bdsc --out runs/digits && python docs/overview.py runs/digits

Left to right, what the package does: samples, the coefficient matrix that writes each as a combination of the others,
and the groups that spectral clustering of |C| + |C|ᵀ finds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.gridspec import GridSpec
from sklearn.datasets import load_digits

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROWS, COLUMNS = 10, 10


def tile(images: np.ndarray) -> np.ndarray:
    """(ROWS · COLUMNS, 8, 8) images as one sheet with a line of white between them."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return padded.reshape(ROWS, COLUMNS, 10, 10).transpose(0, 2, 1, 3).reshape(ROWS * 10, COLUMNS * 10)


def main(run: Path) -> None:
    labels = np.loadtxt(run / "labels.csv", delimiter=",", skiprows=1, dtype=int)[:, 1]
    C = np.load(run / "coefficients.npz")["coefficients"]
    images = load_digits().images
    random = np.random.default_rng(0)
    order = np.argsort(labels, kind="stable")
    # A pixel of the picture is the largest of a block of coefficients, or thin lines would vanish.
    block = 6
    side = len(order) // block * block
    shown = (
        np.abs(C[np.ix_(order, order)][:side, :side]).reshape(side // block, block, side // block, block).max((1, 3))
    )
    mixed = random.choice(len(images), ROWS * COLUMNS, replace=False)
    grouped = np.concatenate([random.choice(np.flatnonzero(labels == k), COLUMNS) for k in range(ROWS)])

    figure = plt.figure(figsize=(11, 3.9))
    grid = GridSpec(1, 3, figure, wspace=0.12, left=0.01, right=0.99, top=0.86, bottom=0.08)
    panels = (
        (tile(images[mixed]), "gray_r", None, "samples, unlabeled", "encoder: Z = E(X)"),
        (shown, "gray_r", np.quantile(shown, 0.995), "|C|, sorted by group", "self-expression: Ẑ = C Z"),
        (tile(images[grouped]), "gray_r", None, "a row per group found", "spectral clustering of |C| + |C|ᵀ"),
    )
    for position, (picture, colors, top, title, caption) in enumerate(panels):
        axes = figure.add_subplot(grid[position])
        axes.imshow(picture, cmap=colors, vmin=0, vmax=top)
        axes.set_title(title, fontsize=12)
        axes.set_xlabel(caption, fontsize=11)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(Path(__file__).with_name("overview.png"), dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
