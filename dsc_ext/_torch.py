"""The private names of torch that this package uses: each stands here once, with the reason why no public one will do.

A new version of torch that drops one of them fails here, at import, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# A Function behind an op's Autograd key calls the op once more, for its kernel. Without this guard the op would come
# back to the same Function.
below_autograd = torch._C._AutoDispatchBelowAutograd

# Whether a mode, a functorch transform or autocast of any device is about. The public ways to ask know only of some
# modes and of one device, or cost more than the launch that is to be made cheap.
_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._are_functorch_transforms_active
_autocast = torch._C._is_any_autocast_enabled

_PLAIN = (Tensor, torch.nn.Parameter)


def plain(C: object, M: object, Z: object = None) -> bool:
    """Return whether the dispatcher would do nothing we would miss: no tracing, no mode, no transform, no autocast."""
    return not (
        torch.compiler.is_compiling()
        or _modes()
        or _transforms()
        or _autocast()
        or type(C) not in _PLAIN
        or type(M) not in _PLAIN
        or (Z is not None and type(Z) not in _PLAIN)
    )


def undispatched(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return ``function.apply`` without its handling of functorch, which ``plain`` has ruled out.

    ``Function.apply`` looks for functorch on every call, two microseconds; its base class, private, does not.
    """
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def rows_and_values(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return row indices and rows of a sparse COO gradient as they are, duplicates and all.

    ``grad.indices()`` wants a coalesced gradient, which would be a sort and a copy; ``row_adam_`` adds duplicates.
    """
    return grad._indices()[0], grad._values()


def scale_in_force(scaler: torch.amp.GradScaler | None) -> Tensor | None:
    """Return the scaler's scale as a tensor on its device, None where nothing is scaled.

    ``scaler.get_scale()`` gives a float, for which the host would wait on the device.
    """
    return scaler._get_scale_async() if scaler is not None and scaler.is_enabled() else None
