"""The methods as scikit-learn estimators, one a module; `estimator_for` makes that of any other method."""

from dsclust.estimators.auto import AutoSubspaceClustering
from dsclust.estimators.base import estimator_for
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
    "estimator_for",
]
