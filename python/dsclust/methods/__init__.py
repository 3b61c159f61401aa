"""Methods: each module holds one model, and its loss for one batch or its formula; the trainer does the rest."""

from dsclust.methods.bdsc import BDSC, BDSCMethod
from dsclust.methods.clbdsc import CLBDSC, CLBDSCMethod, CollapseWarning
from dsclust.methods.dscnet import DSCNetMethod
from dsclust.methods.energy import EnergyMethod, EnergyModel
from dsclust.methods.ridge import RidgeMethod
from dsclust.methods.senet import SENet, SENetMethod
from dsclust.methods.ssc import SSCMethod
from dsclust.methods.sscn import SSCN, SSCNMethod
from dsclust.parts.method import (
    AutoencoderMethod,
    BatchLoss,
    ClosedFormMethod,
    Method,
    Model,
    Pretrained,
    Problem,
    TrainedModel,
)

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
