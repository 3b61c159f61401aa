"""Methods: each module holds one model, and its loss for one batch or its formula; the trainer does the rest."""

from dsc.methods.bdsc import BDSC, BDSCMethod
from dsc.methods.clbdsc import CLBDSC, CLBDSCMethod, CollapseWarning
from dsc.methods.dscnet import DSCNetMethod
from dsc.methods.energy import EnergyMethod, EnergyModel
from dsc.methods.method import (
    AutoencoderMethod,
    BatchLoss,
    ClosedFormMethod,
    Method,
    Model,
    Pretrained,
    Problem,
    TrainedModel,
)
from dsc.methods.ridge import RidgeMethod
from dsc.methods.senet import SENet, SENetMethod
from dsc.methods.ssc import SSCMethod
from dsc.methods.sscn import SSCN, SSCNMethod

# By the name that the command line and stored models use.
METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        RidgeMethod,
        SSCMethod,
        BDSCMethod,
        DSCNetMethod,
        CLBDSCMethod,
        SSCNMethod,
        SENetMethod,
        EnergyMethod,
    )
}

__all__ = [
    "BDSC",
    "CLBDSC",
    "METHODS",
    "SSCN",
    "AutoencoderMethod",
    "BDSCMethod",
    "BatchLoss",
    "CLBDSCMethod",
    "ClosedFormMethod",
    "CollapseWarning",
    "DSCNetMethod",
    "EnergyMethod",
    "EnergyModel",
    "Method",
    "Model",
    "Pretrained",
    "Problem",
    "RidgeMethod",
    "SENet",
    "SENetMethod",
    "SSCMethod",
    "SSCNMethod",
    "TrainedModel",
]
