"""The examples in docstrings run and give what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def with_examples() -> list[str]:
    """Return the names of the modules of both packages whose text has an example."""
    found = []
    for folder, package in ((ROOT, "dsc_ext"), (ROOT / "python", "dsclust")):
        for path in sorted((folder / package).rglob("*.py")):
            if ">>> " in path.read_text():
                found.append(".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("name", with_examples())
def test_examples_in_docstrings(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted and not done.failed
