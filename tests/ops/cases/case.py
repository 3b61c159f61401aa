"""A case: an op, a label and a function that makes the arguments of ``torch.ops.dsc_ext.<op>`` from a ``Make``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    op: str
    label: str
    make: Callable[[Make], Arguments]
    differentiable: tuple[int, ...] = ()  # positions of arguments that take a gradient

    def __str__(self) -> str:
        return f"{self.op}-{self.label}"

    def arguments(
        self, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", seed: int = 0
    ) -> Arguments:
        return self.make(Make(torch.Generator().manual_seed(seed), dtype, torch.device(device)))


@dataclass
class Make:
    """Draws on the CPU, whatever the device, so that every backend sees the same numbers."""

    generator: torch.Generator
    dtype: torch.dtype
    device: torch.device

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        drawn = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(dtype or self.dtype).to(self.device)

    def positive(self, *shape: int) -> Tensor:
        return self.normal(*shape).abs()

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator).to(self.device)

    def few_values(self, *shape: int) -> Tensor:
        """Numbers with many ties, exact in every dtype."""
        return self.integers(-3, 4, *shape).to(self.dtype)

    def distinct(self, count: int, size: int) -> Tensor:
        return torch.randperm(size, generator=self.generator)[:count].to(self.device)

    def tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)
