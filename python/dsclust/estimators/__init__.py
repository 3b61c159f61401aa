"""The methods as scikit-learn estimators, one a module."""

from dsclust.estimators.auto import AutoSubspaceClustering
from dsclust.estimators.bdsc import BDSC
from dsclust.estimators.clbdsc import CLBDSC
from dsclust.estimators.dscnet import DSCNet
from dsclust.estimators.energy import EnergySubspaceClustering
from dsclust.estimators.ridge import RidgeSubspaceClustering
from dsclust.estimators.senet import SENet
from dsclust.estimators.ssc import SparseSubspaceClustering
from dsclust.estimators.sscn import SSCN

__all__ = [
    "BDSC",
    "CLBDSC",
    "SSCN",
    "AutoSubspaceClustering",
    "DSCNet",
    "EnergySubspaceClustering",
    "RidgeSubspaceClustering",
    "SENet",
    "SparseSubspaceClustering",
]
