"""Files that are never half-written and never unpickled: written beside their place and moved there.

Tensors go to safetensors files whose header holds all the rest as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place on success and is removed on failure."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        # A NaN would make the file invalid JSON for everybody else: refuse it here.
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the values of tensors, in their order."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().reshape(-1).numpy().data)
    return found.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """A safetensors file; `header` are plain values."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(kept, temporary, metadata={"dsclust": json.dumps(header)})


def read_tensors(path: Path, form: int, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and the header of a file of :func:`write_tensors`.

    Raises ValueError, which calls the file `what`, where it is of another kind or its header's "format" is not `form`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["dsclust"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        found = header["format"]
    except Exception as error:
        raise ValueError(f"{path} is not a {what} of dsclust ({error})") from error
    if found != form:
        raise ValueError(f"{path} is a {what} of format {found}, expected {form}")
    return tensors, header
