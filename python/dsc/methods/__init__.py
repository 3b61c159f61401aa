"""Methods: each module holds one model and its loss for one batch; the trainer does the rest."""

from dsc.methods.bdsc import BDSC, BDSCMethod
from dsc.methods.method import BatchLoss, Method, Model, Problem
from dsc.methods.sscn import SSCN, SSCNMethod

__all__ = ["BDSC", "SSCN", "BDSCMethod", "BatchLoss", "Method", "Model", "Problem", "SSCNMethod"]
