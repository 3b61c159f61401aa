"""The methods as scikit-learn estimators, one a module."""

from dsc.estimators.auto import AutoSubspaceClustering
from dsc.estimators.bdsc import BDSC
from dsc.estimators.clbdsc import CLBDSC
from dsc.estimators.dscnet import DSCNet
from dsc.estimators.energy import EnergySubspaceClustering
from dsc.estimators.ridge import RidgeSubspaceClustering
from dsc.estimators.senet import SENet
from dsc.estimators.ssc import SparseSubspaceClustering
from dsc.estimators.sscn import SSCN

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
