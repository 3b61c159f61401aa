"""Shared by all tests: where real data lie, and the backends an op can run on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # `from simt import build`, `from ops import cases`


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the public data sets (orl_32x32.mat, ...), or a skip that says how to provide it."""
    folder = Path(os.environ.get("DSC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets at {folder}: set DSC_DATA to the folder that holds orl_32x32.mat")
    return folder
