"""CLBDSC on frozen features: which anchor, and which negatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dsc.backbones import build_backbone
from dsc.data import Dataset
from dsc.experiments.experiment import ORL_LARGE, Arm, Experiment, Published
from dsc.experiments.figures import bars
from dsc.methods import CLBDSCMethod

BACKBONE = "efficientnet-lite0"
SOURCE = "arXiv 2507.19917, table 3"


def frozen_features(data: Dataset) -> npt.NDArray[Any]:
    """What the head of CLBDSC starts from: feature rows (N, 1280) of the images as they are."""
    backbone = build_backbone(BACKBONE, data.X.shape[1:], pixel_range=data.pixel_range)
    with torch.no_grad():
        rows = [backbone(torch.from_numpy(part)) for part in np.array_split(data.X, 20)]
    found: npt.NDArray[Any] = torch.cat(rows).numpy()
    return found


EXPERIMENT = Experiment(
    name="anchor",
    title="What to contrast",
    question="""The paper's anchor is the self-expressed row ẑ: InfoNCE then pushes it away from the very rows of its
own cluster that it is made of. Is the latent row z itself a better anchor, and does it help to leave likely members of
one's own cluster, the N / K largest of a row of |C|, out of the negatives? Head and C are trained on frozen ImageNet
features; the baselines get the same features.""",
    arms=tuple(
        Arm(
            f"anchor {anchor}, {'own cluster masked' if masked else 'all negatives'}",
            ORL_LARGE,
            CLBDSCMethod(backbone=BACKBONE, anchor=anchor, mask_negatives=1.0 if masked else 0.0),  # type: ignore[arg-type]
            None,
        )
        for anchor in ("z", "z_hat")
        for masked in (True, False)
    ),
    seeds=5,
    figure=lambda records: bars(records, ("orl-112x92",)),
    published=(
        Published("CLBDSC, fine-tuned network", ORL_LARGE, 0.923, None, None, SOURCE),
        Published("BDSC, fine-tuned network", ORL_LARGE, 0.935, None, None, SOURCE),
    ),
    embed=frozen_features,
    reading="""One seed so far, with an image worth .0025: the paper's anchor is not ahead of z, masking changes next to
nothing, and closed-form ridge on the same features, without any training, is within two points.""",
)
