"""Method and features where nobody says: a closed form, on the representation whose own graph cuts best.

Owns that choice, made without labels. The graph is built alike on every candidate, that of `dsclust.methods.ridge`, and
the hard normalized cut of its partition says which representation keeps clusters apart. (Eigen-gaps, agreement between
seeds, and the cut over settings of one graph were tried for choosing settings, and did not work.)
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

import numpy as np

from dsclust.baselines import ridge_graph
from dsclust.data import Dataset
from dsclust.features import FeatureConfig, FeatureMap, fit_features
from dsclust.features.backbones import LITE0_PACKAGES
from dsclust.graph.clustering import FragmentedGraphWarning, normalized_cut, spectral_clustering
from dsclust.graph.graph import as_graph
from dsclust.methods.ridge import RidgeMethod
from dsclust.methods.ssc import SSCMethod
from dsclust.parts.method import Method
from dsclust.progress import Callback

# Up to so many samples all pairs are looked at; the nearest of each stand in for them beyond.
ALL_PAIRS = 100_000
# Representations are compared on so many samples at most, and on so many a cluster at least.
_COMPARED = 2_000
_COMPARED_PER_CLUSTER = 30
# Smaller images have next to no places left after scattering, each coefficient of which stands for 8 x 8 pixels.
_SCATTERED = 16
# Scattering has thousands of numbers a sample; the published pipelines keep 500 components.
_COMPONENTS = 500


@dataclass(frozen=True)
class Choice:
    """Tell what was chosen, and by what: of each representation's kind the normalized cut a cluster, the smaller the
    better.

    cuts is empty where there was but one, or where the user named it. missing: extras of this package that would have
    brought more to choose from.
    """

    method: Method
    features: FeatureConfig
    cuts: dict[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def reasons(self) -> str:
        """Return what was chosen and why, in a line."""
        line = f"method {self.method.name}, features {self.features.kind}"
        if self.cuts:
            cuts = ", ".join(f"{kind} {cut:.4f}" for kind, cut in self.cuts.items())
            line += f" (normalized cut a cluster, smaller is better: {cuts})"
        if self.missing:
            line += f"; for more to choose from, pip install 'dsc-ext[{','.join(self.missing)}]'"
        return line


def choose_method(n_samples: int) -> Method:
    """Return ridge self-expression, which costs N² products, or for more than 10⁵ samples that on the nearest."""
    return RidgeMethod() if n_samples <= ALL_PAIRS else SSCMethod()


def choose(
    data: Dataset,
    n_clusters: int,
    *,
    features: FeatureConfig | None = None,
    seed: int = 0,
    device: str = "cpu",
    cache: str | os.PathLike[str] | None = None,
    callback: Callback | None = None,
) -> Choice:
    """Choose the method, and features unless they are given, for a data set; `data.labels` are never read.

    Candidates are the samples as they are and, for images, those of scattering (extra [scattering]) and of
    EfficientNet-Lite0 (extra [efficientnet]) that are installed. They are compared on 2,000 samples, or 30 a cluster,
    drawn at random by `seed`: seconds to a minute, most of it the network's. device, cache, callback: those of
    :func:`dsclust.features.fit_features`.
    """
    method = choose_method(data.n_samples)
    if features is not None:
        return Choice(method, features)
    found, missing = _candidates(data)
    if len(found) == 1 or n_clusters in (1, data.n_samples):
        return Choice(method, found[0], missing=missing)
    part = _draw(data, max(_COMPARED, _COMPARED_PER_CLUSTER * n_clusters), seed)
    cuts = {}
    for config in found:
        rows, _ = fit_features(part, config, cache=cache, device=device, callback=callback)
        cuts[config.kind] = _cut(rows, n_clusters, seed) / n_clusters
    best = min(found, key=lambda config: cuts[config.kind])
    return Choice(method, best, cuts, missing)


def _candidates(data: Dataset) -> tuple[list[FeatureConfig], tuple[str, ...]]:
    """Return the representations to compare, and the extras that are not installed and would bring more."""
    found, missing = [FeatureConfig()], []
    shape = data.image_shape
    if shape is None or shape[0] not in (1, 3):
        return found, ()
    if min(shape[1:]) >= _SCATTERED:
        if find_spec("kymatio") is None:
            missing.append("scattering")
        else:
            width = FeatureMap(FeatureConfig("scattering"), shape, data.pixel_range).width
            found.append(FeatureConfig("scattering", pca=min(_COMPONENTS, data.n_samples, width)))
    if data.pixel_range is not None:
        if any(find_spec(package) is None for package in LITE0_PACKAGES):
            missing.append("efficientnet")
        else:
            found.append(FeatureConfig("efficientnet-lite0"))
    return found, tuple(missing)


def _draw(data: Dataset, most: int, seed: int) -> Dataset:
    if data.n_samples <= most:
        return data
    rows = np.sort(np.random.default_rng(seed).choice(data.n_samples, most, replace=False))
    return replace(data.take(rows), labels=None)


def _cut(data: Dataset, n_clusters: int, seed: int) -> float:
    """Return the normalized cut of ridge self-expression's partition, 0 to n_clusters."""
    graph = as_graph(ridge_graph(data.X, n_clusters), "choose")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FragmentedGraphWarning)  # of a graph that nobody will see
        labels = spectral_clustering(graph, n_clusters, seed=seed)
    return normalized_cut(graph, labels)
