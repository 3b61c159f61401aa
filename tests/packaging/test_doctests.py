"""The examples in docstrings say what comes out. Of the packages as they are imported, wherever they are installed."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
from pathlib import Path

import pytest
import torch


def with_examples(package: str) -> list[str]:
    """Names of the package's modules that hold an example; read, not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent
    found = [path.relative_to(folder.parent) for path in sorted(folder.rglob("*.py")) if ">>> " in path.read_text()]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in found]


@pytest.mark.parametrize("module", [*with_examples("dsc_ext"), *with_examples("dsclust")])
def test_examples(module: str) -> None:
    torch.manual_seed(0)
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried > 0 and failed == 0  # what differs is printed
