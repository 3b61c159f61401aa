"""Presets: network, loss weights and post-processing of each data set the method was published on.

Owns constants and the arithmetic between them. Sources: the
released TensorFlow code of DSC-Net (github.com/panji1990/Deep-subspace-clustering-networks, a
script per data set) and its PyTorch port (github.com/XifengGuo/DSC-Net), both for Ji et al., NIPS
2017. `digits` and the automatic preset are this package's own and are explained at `automatic`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dsclust.names import Affinity, PresetName, words

PRESETS = words(PresetName)


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
class GraphConfig:
    """From C to a graph, the arguments of :func:`dsclust.graph.affinity.coefficient_affinity`.

    affinity: DSC-Net's post-processing of C ("post"), |C| + |C|^T ("plain"), the largest of C + C^T ("sparse") or the
    graph of the nearest rows of C ("neighbors"). threshold, power, unit_diagonal: of the post-processing. subspace_dim:
    of the post-processing, and dimension of a cluster's subspace elsewhere.
    """

    affinity: Affinity
    threshold: float
    subspace_dim: int
    power: float
    unit_diagonal: bool


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
    graph: from C to its graph.
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
    graph: GraphConfig


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
    graph=GraphConfig("post", threshold=0.2, subspace_dim=3, power=1.0, unit_diagonal=False),
)
_COIL20 = replace(
    _ORL,
    name="coil20",
    pixel_range=(0.0, 1.0),
    channels=(15,),
    kernels=(3,),
    weights=LossWeights(1.0, 1.0, 0.5 * 150.0),
    epochs=40,  # the port's; the original stops at 30
    graph=GraphConfig("post", threshold=0.04, subspace_dim=12, power=8.0, unit_diagonal=True),
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
    graph=replace(_COIL20.graph, unit_diagonal=False),
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
    graph=replace(_COIL20.graph, threshold=0.1, subspace_dim=9),
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
        graph=replace(_ORL.graph, threshold=threshold, subspace_dim=10, power=3.5),
    )


def automatic(sample_shape: tuple[int, ...], samples_per_cluster: float = math.inf) -> Preset:
    """Return the preset for data nobody tuned for, chosen from the shape of a sample and N / K alone.

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
        graph=replace(_MNIST.graph, affinity="post" if channels else "plain"),
    )
    if samples_per_cluster >= 3 * chosen.graph.subspace_dim:
        return chosen
    return replace(chosen, graph=replace(_ORL.graph, affinity=chosen.graph.affinity))


def get_preset(name: str, n_clusters: int) -> Preset:
    """Return the preset called `name`, one of `PRESETS`; eyaleb's depends on the number of clusters.

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


def choose_preset(
    preset: str | Preset | None, sample_shape: tuple[int, ...], n_samples: int, n_clusters: int
) -> Preset:
    """Return the preset itself or that of a name; for None the one that follows from the shape of the data."""
    if preset is None:
        return automatic(sample_shape, n_samples / n_clusters)
    return preset if isinstance(preset, Preset) else get_preset(preset, n_clusters)
