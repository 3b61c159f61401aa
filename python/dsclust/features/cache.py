"""A folder of tensors that took long to compute, found again by all that decides them.

Owns keys, the check of what is read, and what happens where the folder is not what it should be: a broken file is
computed again and one that cannot be written is not kept, both with a warning. Nothing in it is ever trusted or needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsclust.files import digest, read_tensors, write_tensors

FORMAT = 1
VARIABLE = "DSCLUST_FEATURE_CACHE"


def default_cache() -> Path | None:
    """Return the folder that the command line and the estimators keep features in: that of the environment variable
    DSCLUST_FEATURE_CACHE, none where it is empty, and dsclust/features in the user's folder of caches where it is not
    set.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        return Path(given) if given else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsclust" / "features"


def writable_folder(folder: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder, made if missing; None for none, or with a warning where it cannot be made."""
    if folder is None:
        return None
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warnings.warn(f"features are not kept: {path} cannot be made ({error})", stacklevel=3)
        return None
    return path


def cache_key(settings: Mapping[str, Any], tensors: Iterable[Tensor]) -> str:
    """Hash everything that decides a result: plain values, tensors, and the version of torch."""
    identity = {"format": FORMAT, "torch": torch.__version__, "tensors": digest(tensors), **settings}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def load_or_compute(
    folder: Path | None, name: str, shapes: Mapping[str, tuple[int, ...]], compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors of these shapes that are kept under a name, or else what `compute` gives, which is kept."""
    if folder is None:
        return compute()
    path = folder / f"{name}.safetensors"
    found = _kept(path, shapes)
    if found is None:
        found = compute()
        header = {"format": FORMAT, "digest": digest(found[name] for name in sorted(found))}
        try:
            write_tensors(path, found, header)
        except OSError as error:
            warnings.warn(f"features are not kept: {path} cannot be written ({error})", stacklevel=3)
    return found


def _kept(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        tensors, header = read_tensors(path, FORMAT, "file of features")
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != dict(shapes):
            raise ValueError(f"{path} holds other arrays than expected")
        if header["digest"] != digest(tensors[name] for name in sorted(tensors)):
            raise ValueError(f"{path} has changed since it was written")
    except (ValueError, KeyError) as error:
        warnings.warn(f"features are computed again: {error}", stacklevel=4)
        return None
    return tensors
