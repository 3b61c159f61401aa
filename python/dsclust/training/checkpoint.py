"""The checkpoint: one safetensors file with the tensors of modules and optimizers, all the rest as JSON in its
header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsclust.files import read_tensors, write_tensors

FORMAT = 2
_MODEL = "model."


class Checkpoint:
    """A file that belongs to one run, which `identity`, plain values, tells from any other."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity = identity

    def write(self, module: nn.Module, optimizers: list[torch.optim.Optimizer], state: dict[str, Any]) -> None:
        """Write the tensors of a module and of its optimizers, and the plain values `state`; atomically."""
        tensors = {f"{_MODEL}{name}": tensor for name, tensor in module.state_dict().items()}
        tensors.update(_optimizer_tensors(optimizers))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(self.path, tensors, {"format": FORMAT, "identity": self.identity, "state": state})

    def read(self) -> Saved | None:
        """Return what was written, None where there is no file yet. Raises ValueError for the file of another run."""
        if not self.path.exists():
            return None
        tensors, header = read_tensors(self.path, FORMAT, "checkpoint")
        differing = _differences(header["identity"], json.loads(json.dumps(self.identity)))
        if differing:
            raise ValueError(
                f"checkpoint {self.path}: it belongs to another run; "
                + "; ".join(f"{name} was {old!r}, now {new!r}" for name, old, new in differing)
            )
        return Saved(tensors, header["state"])


class Saved:
    """What a checkpoint held. state: the plain values."""

    def __init__(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.tensors = tensors
        self.state = state

    def load(self, module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        """Put the tensors back into a module and its optimizers."""
        found = {name[len(_MODEL) :]: t for name, t in self.tensors.items() if name.startswith(_MODEL)}
        module.load_state_dict(found)
        for i, optimizer in enumerate(optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in self.tensors.items():
                if key.startswith(f"optimizer.{i}."):
                    _, _, index, name = key.split(".", 3)
                    state.setdefault(int(index), {})[name] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> Mapping[str, Tensor]:
    return {
        f"optimizer.{i}.{key}.{name}": value
        for i, optimizer in enumerate(optimizers)
        for key, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            d
            for key in sorted({*old, *new})
            for d in _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if old == new else [(name, old, new)]
