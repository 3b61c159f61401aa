"""How an op of this package becomes a torch op: one call states its schema, kernel, reference and fake.

Layers of an op, outermost first: the public function (docstring, defaults) -> torch.ops.dsc_ext.<name> -> [Autograd
key: a torch.autograd.Function that re-enters below autograd] -> CPU and CUDA: checks, outputs and scratch from torch,
launcher of ``_C`` -> any other device: the reference. The fake runs the same checks, so that a wrong shape is refused
while tracing too.

Each pass through the dispatcher into Python costs several microseconds, more than a small launch. What every step of a
training with a memory bank calls (self_expression, its step, bank_scatter_) has a short way past it: where nothing but
plain tensors is about, ``_torch.plain`` says so, and the public function calls the Function or the kernel itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dsc_ext._torch import below_autograd

LIBRARY = torch.library.Library("dsc_ext", "DEF")


def register(
    schema: str,
    *,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    autograd: type[torch.autograd.Function] | None = None,
    autocast: bool = False,
) -> Any:
    """Define ``dsc_ext::<schema>`` and return its default overload.

    ``kernel`` serves every device (it falls back to the reference where there are no launchers); ``autograd`` is the
    Function behind the op's Autograd key; ``autocast`` casts floating inputs to float32 under autocast.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dsc_ext::{name}", fake, lib=LIBRARY)
    if autograd is not None:
        LIBRARY.impl(name, _with_gradient(name, autograd), "Autograd")
    if autocast:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"dsc_ext::{name}", device, torch.float32, lib=LIBRARY)
    return getattr(torch.ops.dsc_ext, name).default


def _with_gradient(name: str, function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """The op's Autograd key: ``function`` where a gradient is wanted, else the op below autograd, which is cheaper."""

    def run(*arguments: Any) -> Any:
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in arguments):
            return function.apply(*arguments)
        with below_autograd():
            return op(*arguments)

    op = getattr(torch.ops.dsc_ext, name).default
    return run
