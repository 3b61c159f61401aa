"""The order of the memory bank: which slot a latent row enters, and what that asks of the order of samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dsc_ext import MemoryBank
from dsclust.parts.registry import Parts

BANK_ORDERS: Parts[BankOrder] = Parts("bank order")


@dataclass(frozen=True)
class BankOrder(ABC):
    """Say which slot of the bank a sample's latent row has.

    shuffles: whether samples may come in another order in every epoch. keeps_rows: whether a sample finds its own last
    row in its slot. Cost: N d numbers, whichever it is.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    shuffles: ClassVar[bool]
    keeps_rows: ClassVar[bool]

    @abstractmethod
    def write(self, bank: MemoryBank, rows: Tensor, Z: Tensor) -> None:
        """Enter latent rows Z (B, d) of the samples `rows` (B,)."""


@BANK_ORDERS.register
@dataclass(frozen=True)
class IndexOrder(BankOrder):
    """Give sample i slot i."""

    name: ClassVar[str] = "index"
    summary: ClassVar[str] = "slot i holds sample i"
    shuffles: ClassVar[bool] = True
    keeps_rows: ClassVar[bool] = True

    def write(self, bank: MemoryBank, rows: Tensor, Z: Tensor) -> None:
        bank.scatter(rows, Z)


@BANK_ORDERS.register
@dataclass(frozen=True)
class FifoOrder(BankOrder):
    """Fill slots in order of arrival. Column j of C belongs to slot j, so that the order of samples may not change."""

    name: ClassVar[str] = "fifo"
    summary: ClassVar[str] = "first in, first out; samples come in a fixed order"
    shuffles: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = False

    def write(self, bank: MemoryBank, rows: Tensor, Z: Tensor) -> None:
        bank.push(Z)
