"""Presets: network, loss weights and post-processing of each data set the method was published on.

Owns constants, the arithmetic between them, and the scale of pixels they presume. Sources: the
released TensorFlow code of DSC-Net (github.com/panji1990/Deep-subspace-clustering-networks, a
script per data set) and its PyTorch port (github.com/XifengGuo/DSC-Net), both for Ji et al., NIPS
2017. `digits` and the automatic preset are this package's own and are explained at `automatic`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

PRESETS = ("orl", "coil20", "coil100", "eyaleb", "mnist", "digits")

Affinity = Literal["post", "plain", "sparse", "neighbors"]
AssignLabels = Literal["kmeans", "discretize", "cluster_qr"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss, which is summed over samples and entries, never averaged:

    ``reconstruction * ||X - X̂||² + coefficients * ||C||² + self_expression * ||Z - CZ||²``.

    Every factor one half in a published script is part of the weight, so weights compare across
    sources. A common factor changes nothing under Adam (but for its eps): see `normal_form`.
    """

    reconstruction: float
    coefficients: float
    self_expression: float

    def normal_form(self) -> LossWeights:
        """The same objective with reconstruction weight 1."""
        a = self.reconstruction
        return LossWeights(1.0, self.coefficients / a, self.self_expression / a)

    @classmethod
    def scale_free(cls, sample_energy: float, latent_energy: float, coefficients: float) -> LossWeights:
        """Weights that do not depend on the units of X or Z.

        `sample_energy` and `latent_energy` are means of ||x||² and ||z||² over the samples. Each
        error is measured in units of its own energy. With `coefficients` = N / K, ``||C||²`` costs
        as much as it gains: for K equal clusters, the C that replaces each sample by its cluster's
        mean has ``||C||² = K``, so its penalty is N, as much as the self-expression error of
        C = 0. In between lies the solution, whatever N, K and the scales are.
        """
        return cls(1.0 / max(sample_energy, 1e-30), coefficients, 1.0 / max(latent_energy, 1e-30))


def settling_epochs(n_samples: int, n_clusters: int, lr: float) -> int:
    """Epochs in which Adam can carry C from 0 to its solution: sqrt(K / N) / lr, at least 50.

    Averaging over one's cluster gives a row of C the norm sqrt(K / N), which also bounds its
    largest entry, and an Adam step is about lr long. A property of the problem's size; on digits
    (75 epochs, one batch) the terms of the loss that hold C change by less than 1 % in as many more.
    """
    return max(50, math.ceil(math.sqrt(n_clusters / n_samples) / lr))


@dataclass(frozen=True)
class Preset:
    """Everything that depends on the data set. Immutable; derive variants with `replace`.

    image_shape: (c, h, w) the network was published for, or None for any.
    pixel_range: scale the data are brought to before anything else, (low, high); None divides by
        the largest magnitude.
    channels, kernels: convolutional autoencoder, or `widths`: fully connected one.
    weights: of the loss; None means `LossWeights.scale_free` after pre-training.
    coefficient_init: constant that C starts from.
    epochs: passes over the data, each updating every row of C once; None: `settling_epochs`.
    lr: of Adam at full batch.
    affinity: DSC-Net's post-processing of C ("post"), |C| + |C|^T ("plain"), the largest of C + C^T ("sparse") or the
        graph of the nearest rows of C ("neighbors").
    threshold, subspace_dim, power, unit_diagonal: of the post-processing.
    """

    name: str
    image_shape: tuple[int, int, int] | None
    pixel_range: tuple[float, float] | None
    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    widths: tuple[int, ...]
    weights: LossWeights | None
    coefficient_init: float
    epochs: int | None
    lr: float
    affinity: Affinity
    threshold: float
    subspace_dim: int
    power: float
    unit_diagonal: bool


_ORL = Preset(
    name="orl",
    image_shape=(1, 32, 32),
    pixel_range=(0.0, 255.0),
    channels=(3, 3, 5),
    kernels=(3, 3, 3),
    widths=(),
    weights=LossWeights(0.5, 1.0, 0.5 * 0.2),
    coefficient_init=1e-8,  # the port's; the original starts at 0
    epochs=700,
    lr=1e-3,
    affinity="post",
    threshold=0.2,
    subspace_dim=3,
    power=1.0,
    unit_diagonal=False,
)
_COIL20 = replace(
    _ORL,
    name="coil20",
    pixel_range=(0.0, 1.0),
    channels=(15,),
    kernels=(3,),
    weights=LossWeights(1.0, 1.0, 0.5 * 150.0),
    epochs=40,  # the port's; the original stops at 30
    threshold=0.04,
    subspace_dim=12,
    power=8.0,
    unit_diagonal=True,
)
_COIL100 = replace(
    _COIL20,
    name="coil100",
    pixel_range=(0.0, 255.0),  # its data file holds bytes, and the script feeds them as they are
    channels=(50,),
    kernels=(5,),
    weights=LossWeights(1.0, 1.0, 0.5 * 30.0),
    coefficient_init=1e-4,
    epochs=120,
    unit_diagonal=False,
)
# A DSC-Net run on MNIST's test set and SSCN's own (github.com/buschju/sscn). Their convolutions pad 2, 1 and 1 pixels
# on all sides where ours follow TensorFlow's SAME; sizes and parameter counts are equal.
_MNIST = replace(
    _COIL20,
    name="mnist",
    image_shape=(1, 28, 28),
    channels=(10, 20, 30),
    kernels=(5, 3, 3),
    weights=LossWeights(1.0, 1.0, 0.5),
    epochs=30,
    threshold=0.1,
    subspace_dim=9,
)


def _eyaleb(n_clusters: int) -> Preset:
    # The original is Python 2: (K - 1) / 10 is an integer division there, so K = 20 thresholds at
    # 0.3 and K = 38 at 0.1. Real division would give 0.21 and 0.03, cut off at 0.1.
    threshold = max(0.4 - (n_clusters - 1) // 10 * 0.1, 0.1)
    return replace(
        _ORL,
        name="eyaleb",
        image_shape=(1, 48, 42),
        channels=(10, 20, 30),
        kernels=(5, 3, 3),
        weights=LossWeights(0.5, 1.0, 0.5 * 10.0 ** (n_clusters / 10.0 - 3.0)),
        coefficient_init=1e-4,
        epochs=50 + 25 * n_clusters,
        threshold=threshold,
        subspace_dim=10,
        power=3.5,
    )


def automatic(sample_shape: tuple[int, ...], samples_per_cluster: float = math.inf) -> Preset:
    """The preset for data nobody tuned for: chosen from the shape of a sample and N / K alone.

    Images (c, h, w) get one stride-2 layer of 3 x 3 kernels for each halving that leaves at least
    4 pixels a side, with 10, 20, 30, ... channels, or 15 if there is one layer only: the published
    networks' sizes. Features (f,) get a fully connected network with 2f hidden units and
    min(f, 32) latent ones. Values are divided by their range, the loss is
    `LossWeights.scale_free`, the epochs are `settling_epochs`. Images take the post-processing
    published for the most similar number of samples per cluster: that of a DSC-Net run on MNIST
    (github.com/buschju/sscn, 1,000 a cluster), or that of ORL (10 a cluster) below three samples
    for each of the nine dimensions the former gives a subspace. Features take |C| + |C|^T, for C has
    no larger rank than they have dimensions, and the post-processing, which keeps 9 K + 1
    directions, then mostly keeps noise (seen on synthetic unions of subspaces). Every number is a
    published one or follows from sizes; labels were seen once, after the fact: on 80 ORL faces of 8
    people the post-processing of ORL gives ACC .81 where that of MNIST gave .49.
    """
    channels: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    if len(sample_shape) == 3:
        layers = max(1, int(math.log2(max(min(sample_shape[1:]), 8) / 4)))
        channels = (15,) if layers == 1 else tuple(10 * (i + 1) for i in range(layers))
    elif len(sample_shape) == 1:
        widths = (2 * sample_shape[0], min(sample_shape[0], 32))
    else:
        raise ValueError(f"automatic: sample_shape: expected (c, h, w) or (f,), got {sample_shape}")
    chosen = Preset(
        name="automatic",
        image_shape=None,
        pixel_range=None,
        channels=channels,
        kernels=(3,) * len(channels),
        widths=widths,
        weights=None,
        coefficient_init=1e-8,
        epochs=None,
        lr=1e-3,
        affinity="post" if channels else "plain",
        threshold=0.1,
        subspace_dim=9,
        power=8.0,
        unit_diagonal=True,
    )
    if samples_per_cluster >= 3 * chosen.subspace_dim:
        return chosen
    return replace(
        chosen,
        threshold=_ORL.threshold,
        subspace_dim=_ORL.subspace_dim,
        power=_ORL.power,
        unit_diagonal=_ORL.unit_diagonal,
    )


def get_preset(name: str, n_clusters: int) -> Preset:
    """The preset called `name`, one of `PRESETS`; eyaleb's depends on the number of clusters.

    `digits` is `automatic` for 8 x 8 images. Raises ValueError for an unknown name.
    """
    if n_clusters < 1:
        raise ValueError(f"get_preset: n_clusters: expected at least 1, got {n_clusters}")
    if name == "eyaleb":
        return _eyaleb(n_clusters)
    if name == "digits":
        shape = (1, 8, 8)
        epochs = settling_epochs(1797, 10, automatic(shape).lr)
        return replace(automatic(shape), name=name, image_shape=shape, pixel_range=(0.0, 1.0), epochs=epochs)
    fixed = {preset.name: preset for preset in (_ORL, _COIL20, _COIL100, _MNIST)}
    if name not in fixed:
        raise ValueError(f"get_preset: name: expected one of {', '.join(PRESETS)}, got {name!r}")
    return fixed[name]


def prepare(
    X: npt.NDArray[np.float32],
    pixel_range: tuple[float, float] | None,
    preset: Preset,
    magnitude: float | None = None,
) -> npt.NDArray[np.float32]:
    """Samples on the scale the preset's weights were chosen for.

    X: (n, c, h, w) or (n, f); pixel_range: the scale its values live on, None if unknown. Data on
    another known scale are mapped linearly to the preset's, for a published weight of the
    self-expression error means nothing without its units. Where the preset has no scale, values are divided by
    `magnitude`, the largest of X unless given: that of the data a model was fitted to.

    Raises ValueError where the shape of a sample is not the preset's, where the preset needs a scale and
    the data's is unknown, where values leave the scale they are said to have, and for negative
    values under a convolutional network, whose last layer is a ReLU.
    """
    shape = tuple(int(s) for s in X.shape[1:])
    if preset.image_shape is not None and shape != preset.image_shape:
        raise ValueError(f"preset {preset.name}: expected samples of shape {preset.image_shape}, got {shape}")
    if len(shape) != (3 if preset.channels else 1):
        kind = "images (c, h, w)" if preset.channels else "feature vectors (f,)"
        raise ValueError(f"preset {preset.name}: expected {kind}, got samples of shape {shape}")
    low, high = float(X.min()), float(X.max())
    if preset.pixel_range is None:
        scale = max(abs(low), abs(high)) if magnitude is None else magnitude
        prepared = X / np.float32(scale) if scale > 0 else X
    else:
        if pixel_range is None:
            raise ValueError(
                f"preset {preset.name}: expected pixels on the scale {preset.pixel_range}; the "
                f"data's values {low:g}..{high:g} leave their scale open, so pass pixel_range=, "
                "such as (0, 255)"
            )
        if low < pixel_range[0] or high > pixel_range[1]:
            raise ValueError(
                f"preset {preset.name}: pixel_range: got {pixel_range}, but values reach from {low:g} to {high:g}"
            )
        (a, b), (c, d) = pixel_range, preset.pixel_range
        prepared = X if (a, b) == (c, d) else (X - np.float32(a)) * np.float32((d - c) / (b - a)) + np.float32(c)
    if preset.channels and prepared.min() < 0:
        raise ValueError(
            f"preset {preset.name}: images must not be negative (the network ends in a ReLU), got values from {low:g}"
        )
    return np.ascontiguousarray(prepared, dtype=np.float32)
