"""The one door to the compiled extension: loads it lazily, and says what is wrong when it cannot be loaded.

``backend(tensor)`` returns the submodule of ``_C`` whose launchers serve the tensor's device; both have the same
signatures. ``queue(tensor)`` is what a launcher is handed to put its work on: the current CUDA stream of the tensor's
device, or the number of threads on the CPU.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

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
            warnings.warn(
                f"dsc_ext: the compiled extension cannot be loaded ({error}). Every op falls back to plain PyTorch, "
                "which is slower and copies more. Run `python -m dsc_ext` for a diagnosis.",
                RuntimeWarning,
                stacklevel=2,
            )
    return importlib.import_module("dsc_ext._C") if _load_error is None else None


def load_error() -> Exception | None:
    """Why the extension could not be loaded, or None."""
    load()
    return _load_error


def backend(like: Tensor) -> Any | None:
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
