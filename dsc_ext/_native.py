"""The one door to the compiled extension: loads it lazily, and says what is wrong when it cannot be loaded.

``backend(tensor)`` returns the submodule of ``_C`` whose launchers serve the tensor's device; both have the same
signatures. ``queue(tensor)`` is what a launcher is handed to put its work on: the current CUDA stream of the tensor's
device, or the number of threads on the CPU.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dsc_ext._C import Launchers

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

# device type -> module with the launchers; filled on first use. Tests put the emulated CUDA kernels in as "cpu".
backends: dict[str, Any] = {}

_load_error: Exception | None = None
_loaded = False


def load() -> ModuleType | None:
    """The extension module, or None after one warning that says why it cannot be loaded."""
    global _load_error, _loaded
    if not _loaded:
        _loaded = True
        try:
            module = importlib.import_module("dsc_ext._C")
            backends.setdefault("cpu", module.cpu)
            if hasattr(module, "cuda"):
                backends.setdefault("cuda", module.cuda)
        except ImportError as error:
            _load_error = error
            reason = hidden_package() or f"the compiled extension cannot be loaded ({error})."
            warnings.warn(
                f"dsc_ext: {reason} Every op falls back to plain PyTorch, which is slower and copies more. "
                "Run `python -m dsc_ext` for a diagnosis.",
                RuntimeWarning,
                stacklevel=2,
            )
    return importlib.import_module("dsc_ext._C") if _load_error is None else None


def hidden_package() -> str | None:
    """Return how this folder hides an installed package with an extension, and what to do; None where it does not.

    In a checkout `python -m`, `python -c` and a notebook import the checkout's own folder, in which nothing was
    compiled unless it was installed with -e. To install again what is installed would change nothing.
    """
    own = Path(__file__).resolve().parent
    if _has_extension(own):
        return None
    other = next((folder for folder in _package_folders() if folder != own and _has_extension(folder)), None)
    if other is None:
        return None
    named = [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if own.parent == Path.cwd() and own.parent not in named:
        option = "-P" if sys.version_info >= (3, 11) else "-I"
        way_out = f"Change to another folder, or start Python with {option} (`python {option} -m dsc_ext`)"
    else:
        way_out = f"Take {own.parent} off the search path (PYTHONPATH, sys.path)"
    return (
        f"{own}, which was not compiled for this Python, hides the installed package {other}. {way_out}, or compile "
        f"this one: `pip install -e .` in {own.parent}."
    )


def _has_extension(folder: Path) -> bool:
    return any((folder / f"_C{suffix}").is_file() for suffix in EXTENSION_SUFFIXES)


def _package_folders() -> Iterator[Path]:
    """Yield the folders of every dsc_ext that could be imported, this one and those that it hides."""
    for finder in sys.meta_path:  # an editable install may have a finder of its own
        for path in [[entry] for entry in sys.path] if finder is PathFinder else [None]:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec and find_spec("dsc_ext", path)
            for folder in (spec and spec.submodule_search_locations) or ():
                yield Path(folder).resolve()


def load_error() -> Exception | None:
    """Why the extension could not be loaded, or None."""
    load()
    return _load_error


def backend(like: Tensor) -> Launchers | None:
    """The launchers for the tensor's device, or None where the reference has to serve."""
    if not _loaded:
        load()
    return backends.get("cpu" if like.is_cpu else like.device.type)


def queue(like: Tensor) -> int:
    """CUDA: the current stream of the tensor's device. CPU: the number of threads PyTorch may use."""
    if like.is_cuda:
        return torch.cuda.current_stream(like.device).cuda_stream
    return torch.get_num_threads()


def tf32(like: Tensor) -> bool:
    """Whether products may be taken in TF32: float32 on CUDA, where PyTorch's own matrix products are allowed to.

    One switch with three handles: ``torch.set_float32_matmul_precision`` other than "highest",
    ``torch.backends.cuda.matmul.allow_tf32 = True``, and ``torch.backends.cuda.matmul.fp32_precision = "tf32"``.
    """
    if not like.is_cuda or like.dtype != torch.float32:
        return False
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # it has been set by the newest of the three, and PyTorch refuses to say it in the old words
        return torch.backends.cuda.matmul.fp32_precision == "tf32"


def device_of(like: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Makes the tensor's CUDA device current, so that a launch goes where its pointers are; a no-op on the CPU."""
    if like.is_cuda and like.device.index != torch.cuda.current_device():
        return torch.cuda.device(like.device)
    return _NO_GUARD


_NO_GUARD: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


def pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def row_major(tensor: Tensor) -> Tensor:
    """The tensor itself if the elements of each row are adjacent (rows may be strided), else a contiguous copy."""
    if tensor.is_contiguous() or (tensor.stride(1) == 1 and tensor.stride(0) >= tensor.shape[1]):
        return tensor
    return tensor.contiguous()
