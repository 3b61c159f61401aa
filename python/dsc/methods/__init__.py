"""Methods: each module holds one model and its loss for one batch; the trainer does the rest."""

from dsc.methods.bdsc import BDSC, BatchLoss

__all__ = ["BDSC", "BatchLoss"]
