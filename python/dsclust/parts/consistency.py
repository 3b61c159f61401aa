"""What keeps a memory bank in step with an encoder that moves: one small class a rule.

Rows of the bank come from an encoder that has moved since. The paper's rule is a learning rate in proportion to 1 / k,
k the batches of an epoch (arXiv 2507.19917, sec. 3.3). The others: a momentum encoder (He et al., CVPR 2020), averaged
rows (the memory bank of Tian et al., ECCV 2020), encoding the bank anew, nothing, or no bank at all: the gradient of
the full batch, exactly, in the memory of a mini-batch, because the networks run chunk by chunk and are run again for
their gradients (Chen et al., arXiv 1604.06174; the two passes of Gao et al., arXiv 2101.06983).

A new rule is a class here or in any file that is imported: `BDSCMethod(consistency="name:setting=value")` finds it by
its name, and so do the estimator and the command line.
"""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dsc_ext import MemoryBank
from dsclust.checks import integer, number
from dsclust.parts.order import BankOrder
from dsclust.parts.registry import Parts

CONSISTENCIES: Parts[Consistency] = Parts("consistency")


@dataclass(frozen=True)
class HeldBank:
    """Give a rule what it may work with: the bank and its order, the encoder, and what the rule itself keeps.

    follower: the network that `Consistency.follower` made, part of the model's state. n_batches: k, steps an epoch.
    encode_all: the encoder's latent rows (N, d) of all samples in order, without gradient.
    """

    bank: MemoryBank
    order: BankOrder
    encoder: nn.Module
    follower: nn.Module | None
    n_batches: int
    encode_all: Callable[[], Tensor]

    def write(self, rows: Tensor | None, Z: Tensor) -> None:
        """Enter latent rows Z (B, d) of the samples `rows`; None: all N in order."""
        if rows is None:
            self.bank.fill(Z)
        else:
            self.order.write(self.bank, rows, Z)


@dataclass(frozen=True)
class Consistency(ABC):
    """Keep a bank in step with the encoder. A rule overrides what it does otherwise; its fields are its settings.

    full_batch: whether it asks for all samples in one step. cost: beside the step of a batch, in words. Hooks run
    without gradient.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    cost: ClassVar[str] = "none"
    full_batch: ClassVar[bool] = False

    def check(self, owner: str, order: BankOrder) -> None:  # noqa: B027 (most rules go with any order)
        """Raise ValueError where the rule does not go with the order of the bank."""

    def rate_divisor(self, n_batches: int) -> int:
        """Return what the networks' learning rate at full batch is divided by."""
        return 1

    def follower(self, encoder: nn.Module) -> nn.Module | None:
        """Return a network that the rule keeps beside the encoder."""
        return None

    def begin_epoch(self, held: HeldBank, epoch: int) -> None:  # noqa: B027
        """Prepare the bank for an epoch, counted from 0."""

    def before_batch(self, held: HeldBank) -> None:  # noqa: B027
        """Prepare the bank for a batch, before its samples are encoded."""

    def enter(self, held: HeldBank, x: Tensor, rows: Tensor | None, Z: Tensor) -> None:
        """Enter a batch: samples x (B, ...) with indices `rows` and the encoder's latent rows Z (B, d) of them."""
        held.write(rows, Z)


@CONSISTENCIES.register
@dataclass(frozen=True)
class ScaledRate(Consistency):
    """Divide the networks' rate by k: they travel in an epoch as far as at full batch, while each row of C moves
    once.
    """

    name: ClassVar[str] = "lr"
    summary: ClassVar[str] = "the networks' learning rate is divided by the batches of an epoch"

    def rate_divisor(self, n_batches: int) -> int:
        return n_batches


@CONSISTENCIES.register
@dataclass(frozen=True)
class MomentumEncoder(Consistency):
    """Write the bank by an encoder that follows the trained one, ``θ' <- m θ' + (1 - m) θ`` before each step.

    m = 1 - 1/k, so that the average spans an epoch, but within .9 and .999.
    """

    name: ClassVar[str] = "momentum"
    summary: ClassVar[str] = "an encoder that follows the trained one writes the bank"
    cost: ClassVar[str] = "a second pass of the encoder, and its weights once more"

    def follower(self, encoder: nn.Module) -> nn.Module:
        return copy.deepcopy(encoder).requires_grad_(False)

    @staticmethod
    def momentum(n_batches: int) -> float:
        """Return m for k batches an epoch."""
        return min(max(1.0 - 1.0 / n_batches, 0.9), 0.999)

    def enter(self, held: HeldBank, x: Tensor, rows: Tensor | None, Z: Tensor) -> None:
        assert held.follower is not None
        for follower, leader in zip(held.follower.parameters(), held.encoder.parameters(), strict=True):
            follower.lerp_(leader, 1.0 - self.momentum(held.n_batches))
        held.write(rows, held.follower(x))


@CONSISTENCIES.register
@dataclass(frozen=True)
class AveragedRows(Consistency):
    """Mix a row of the bank with its old self, `momentum` of which stays."""

    name: ClassVar[str] = "ema"
    summary: ClassVar[str] = "a row of the bank is mixed with its old self"
    momentum: float = 0.5

    def __post_init__(self) -> None:
        number("consistency ema", "momentum", self.momentum, least=0, below=1)

    def check(self, owner: str, order: BankOrder) -> None:
        if not order.keeps_rows:
            raise ValueError(
                f"{owner}: bank: expected 'index' with consistency 'ema', which mixes a row with its own, got "
                f"{order.name!r}"
            )

    def enter(self, held: HeldBank, x: Tensor, rows: Tensor | None, Z: Tensor) -> None:
        if rows is None:
            held.bank.features.lerp_(Z, 1.0 - self.momentum)
        else:
            held.bank.scatter(rows, Z, momentum=self.momentum)


@CONSISTENCIES.register
@dataclass(frozen=True)
class Refresh(Consistency):
    """Encode the whole bank anew before every `every`-th epoch."""

    name: ClassVar[str] = "refresh"
    summary: ClassVar[str] = "all of the bank is encoded anew before every so many epochs"
    cost: ClassVar[str] = "a pass of the encoder over all samples, every so many epochs"
    every: int = 1

    def __post_init__(self) -> None:
        integer("consistency refresh", "every", self.every, least=1)

    def begin_epoch(self, held: HeldBank, epoch: int) -> None:
        if epoch % self.every == 0:
            held.bank.fill(held.encode_all())


@CONSISTENCIES.register
@dataclass(frozen=True)
class Fresh(Consistency):
    """Encode the whole bank anew before every step, so that no row is ever stale."""

    name: ClassVar[str] = "fresh"
    summary: ClassVar[str] = "all of the bank is encoded anew before every step"
    cost: ClassVar[str] = "a pass of the encoder over all samples every step: k times that of an epoch"

    def before_batch(self, held: HeldBank) -> None:
        held.bank.fill(held.encode_all())

    def enter(self, held: HeldBank, x: Tensor, rows: Tensor | None, Z: Tensor) -> None:
        """Leave the bank alone: the rows are there."""


@CONSISTENCIES.register
@dataclass(frozen=True)
class Exact(Consistency):
    """Ask for all samples in one step: the full batch's gradient, in the activation memory of a chunk."""

    name: ClassVar[str] = "exact"
    summary: ClassVar[str] = "one step an epoch, with the gradient of the full batch"
    cost: ClassVar[str] = "a second run of the networks; an epoch is one step"
    full_batch: ClassVar[bool] = True


@CONSISTENCIES.register
@dataclass(frozen=True)
class Unkept(Consistency):
    """Do nothing."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "nothing"
