"""dsclust: deep subspace clustering of images and features by mini-batch, on the kernels of `dsc_ext`.

    AutoSubspaceClustering, RidgeSubspaceClustering, SparseSubspaceClustering,
    BDSC, DSCNet, CLBDSC, SSCN, SENet, EnergySubspaceClustering
                           scikit-learn estimators; `dsclust fit --method` on the command line
    cluster                the function behind them
    FeatureConfig, fit_features
                           scattering, pre-trained networks, principal components in front of a method
    Predictor              labels new samples; `dsclust predict`
    load, Dataset          folders of images, .npy, .npz, .mat, arrays
    evaluate               ACC, NMI, ARI
    run_baselines          k-means, 5-NN graph and closed-form ridge on the same input
    spectral_clustering    exact on disconnected graphs

Names load on first use, so that `import dsclust` is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsclust.baselines import run_baselines
    from dsclust.data import Dataset, load
    from dsclust.estimators import (
        BDSC,
        CLBDSC,
        SSCN,
        AutoSubspaceClustering,
        DSCNet,
        EnergySubspaceClustering,
        RidgeSubspaceClustering,
        SENet,
        SparseSubspaceClustering,
    )
    from dsclust.features import FeatureConfig, fit_features
    from dsclust.graph.clustering import cluster_coefficients, spectral_clustering
    from dsclust.metrics import evaluate
    from dsclust.pipeline import cluster
    from dsclust.predictor import Predictor
    from dsclust.presets import PRESETS, get_preset

try:
    __version__ = version("dsc-ext")
except PackageNotFoundError:  # used from a source tree that was never installed
    __version__ = "0+unknown"

_HOME = {
    "AutoSubspaceClustering": "estimators",
    "BDSC": "estimators",
    "DSCNet": "estimators",
    "CLBDSC": "estimators",
    "SSCN": "estimators",
    "SENet": "estimators",
    "EnergySubspaceClustering": "estimators",
    "RidgeSubspaceClustering": "estimators",
    "SparseSubspaceClustering": "estimators",
    "cluster": "pipeline",
    "Predictor": "predictor",
    "FeatureConfig": "features",
    "fit_features": "features",
    "Dataset": "data",
    "load": "data",
    "PRESETS": "presets",
    "get_preset": "presets",
    "cluster_coefficients": "graph.clustering",
    "spectral_clustering": "graph.clustering",
    "evaluate": "metrics",
    "run_baselines": "baselines",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dsclust' has no attribute {name!r}")
    value = getattr(import_module(f"dsclust.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
