"""Random numbers: every draw is a function of (seed, purpose, epoch), so that a resumed run draws what it would
have.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """What a draw is for; part of its seed, so that the numbers never change."""

    INIT = 0
    PRETRAIN = 1
    TRAIN = 2
    MODEL = 3
    CLASSIFIER = 4
    EPOCH = 5


def generator_for(seed: int, purpose: Purpose, *epoch: int) -> torch.Generator:
    """Return random numbers for one purpose of a run, and for an epoch of it."""
    # SeedSequence mixes its words: neighboring seeds and epochs give unrelated streams.
    word = np.random.SeedSequence([seed, int(purpose), *epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word) & (2**63 - 1))


def batches(n: int, count: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
    """Return all n row indices in `count` batches whose sizes differ by one at most: none is left out, none tiny."""
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    return torch.tensor_split(order, count)
