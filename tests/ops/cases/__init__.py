"""The one case table: which inputs each op is tried on, by every backend.

A file an op, with ``CASES`` and ``EXPECTED``: what the op should give, by dsc_ext.reference, as a function of the op's
arguments. ``MUTATED`` holds the positions of the arguments that an in-place op overwrites: it is compared by what it
leaves there. ``TF32`` names the ops whose CUDA products may be taken in TF32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.cases import (
    bank,
    info_nce,
    inner_product_self_expression,
    on_support,
    row_adam,
    self_expression,
    self_expression_step,
    sparse_self_expression,
    sparse_self_expression_step,
    symmetrize_affinity,
    threshold_coefficients,
    topk_coefficients,
)
from ops.cases.case import Arguments, Case

_TABLES = (
    self_expression,
    self_expression_step,
    inner_product_self_expression,
    info_nce,
    sparse_self_expression,
    sparse_self_expression_step,
    on_support,
    threshold_coefficients,
    topk_coefficients,
    symmetrize_affinity,
    bank,
    row_adam,
)

CASES: list[Case] = [case for table in _TABLES for case in table.CASES]
EXPECTED: dict[str, Callable[..., Any]] = {op: of for table in _TABLES for op, of in table.EXPECTED.items()}
MUTATED: dict[str, tuple[int, ...]] = {
    op: positions for table in _TABLES for op, positions in getattr(table, "MUTATED", {}).items()
}
TF32: tuple[str, ...] = tuple(op for table in _TABLES for op in getattr(table, "TF32", ()))


def call(case: Case, arguments: Arguments) -> tuple[Tensor, ...]:
    """Return what ``torch.ops.dsc_ext.<op>`` returns, or leaves behind in its arguments."""
    return _outcome(case, arguments, getattr(torch.ops.dsc_ext, case.op)(*arguments))


def expected(case: Case, arguments: Arguments) -> tuple[Tensor, ...]:
    """Return the same by the reference. For the two forms of symmetrize_affinity: the dense W."""
    return _outcome(case, arguments, EXPECTED[case.op](*arguments))


def _outcome(case: Case, arguments: Arguments, returned: Any) -> tuple[Tensor, ...]:
    if case.op in MUTATED:
        return tuple(arguments[i] for i in MUTATED[case.op] if arguments[i] is not None)
    return returned if isinstance(returned, tuple) else (returned,)


def clone(arguments: Arguments) -> Arguments:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in arguments)
