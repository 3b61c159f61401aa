"""Refuse a value with one wording: who asks, which argument, what was expected, what came."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection


def integer(owner: str, name: str, value: object, *, least: int, optional: bool = False) -> None:
    """Raise TypeError unless `value` is an integer (a bool is none), ValueError where it is below `least`.

    optional: whether None will do.
    """
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{owner}: {name}: expected an integer{' or None' if optional else ''}, got {value!r}")
    if int(value) < least:
        raise ValueError(f"{owner}: {name}: expected at least {least}, got {value}")


def number(
    owner: str,
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Raise TypeError unless `value` is a real number, ValueError unless it is finite and within the bounds given."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {name}: expected a number, got {value!r}")
    given, bounds = float(value), (("> ", above), (">= ", least), ("< ", below), ("<= ", most))
    within = (
        (above is None or given > above)
        and (least is None or given >= least)
        and (below is None or given < below)
        and (most is None or given <= most)
    )
    if not (math.isfinite(given) and within):
        wanted = " and ".join(f"{sign}{bound:g}" for sign, bound in bounds if bound is not None)
        raise ValueError(f"{owner}: {name}: expected a finite number {wanted}, got {value!r}")


def one_of(owner: str, name: str, value: object, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of the words `choices`."""
    if value not in choices:
        raise ValueError(f"{owner}: {name}: expected one of {', '.join(choices)}, got {value!r}")
