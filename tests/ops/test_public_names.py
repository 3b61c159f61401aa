"""What `dsc_ext` offers by name, and what an op does where no gradient is wanted."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dsc_ext


def test_the_layer_has_a_second_name_to_drop_into_scripts() -> None:
    assert dsc_ext.SelfExpressiveCUDA is dsc_ext.SelfExpression


def test_the_head_of_the_package_names_all_that_it_exports() -> None:
    named = set(re.findall(r"\w+", dsc_ext.__doc__ or ""))
    assert not set(dsc_ext.__all__) - named - {"__version__", "nn", "optim"}


def test_the_twin_offers_every_function_of_its_modules() -> None:
    assert all(callable(getattr(dsc_ext.reference, name)) for name in dsc_ext.reference.__all__)


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.append(func.name())
        return func(*args, **(kwargs or {}))


def test_no_expected_negatives_are_summed_where_no_gradient_is_wanted() -> None:
    anchor, bank = torch.eye(2, requires_grad=True), torch.eye(4, 2)
    with torch.no_grad(), Recorder() as seen:
        dsc_ext.info_nce(anchor, anchor, bank, torch.tensor([0, 1]))
    assert "dsc_ext::info_nce" in seen.ops and "dsc_ext::info_nce_expected" not in seen.ops
    with Recorder() as seen:
        dsc_ext.info_nce(anchor, anchor, bank, torch.tensor([0, 1])).backward()
    assert "dsc_ext::info_nce_expected" in seen.ops
