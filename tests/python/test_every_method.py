"""One real fit by every method, of digits and small enough for the fast tests: none is left out of them."""

import dsclust
import numpy as np
import pytest
from dsclust.methods import METHODS
from dsclust.metrics import clustering_accuracy
from sklearn.datasets import load_digits

AUTO = "auto"
FLOOR = {"auto": 0.85, "ridge": 0.85, "ssc": 0.85}  # closed forms; two epochs teach a network little
QUICK = {"epochs": 2, "pretrain_steps": 10}


def settings(name: str) -> dict:
    if name == AUTO:
        return {}
    options = {option: value for option, value in QUICK.items() if option in METHODS[name].training_options}
    # Pre-trained networks are no part of a plain installation.
    return options | ({"method": METHODS[name](backbone="none")} if name == "clbdsc" else {})


@pytest.mark.parametrize("name", [AUTO, *METHODS])
def test_digits(name):
    digits = load_digits()
    images, truth = digits.images[:300] / 16, digits.target[:300]
    fit = dsclust.cluster(images, 10, **{"method": name, **settings(name)}, seed=0)
    assert fit.labels.shape == (300,) and set(fit.labels) <= set(range(10))
    assert np.isfinite(fit.affinity.data if hasattr(fit.affinity, "data") else fit.affinity).all()
    assert clustering_accuracy(truth, fit.labels) >= FLOOR.get(name, 0.0)
