"""Parts and methods by name: what registers itself beside its definition, and what asks for it by the word typed.

A part is a frozen dataclass with a `name`; its fields are its settings. It is written as `name`, or with settings as
`name:setting=value,setting=value`, so that a method which holds parts is still made of plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


def parse_value(owner: str, name: str, kind: type, text: str) -> Any:
    """Return `text` as a bool ("true", "false"), int, float or str. Raises ValueError naming the setting."""
    try:
        return {"true": True, "false": False}[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "an integer", float: "a number"}[kind]
        raise ValueError(f"{owner}: {name}: expected {wanted}, got {text!r}") from None


def setting_kinds(part: type[Any]) -> dict[str, type]:
    """Return the types of a dataclass's settings by their names, told from the defaults, which all have."""
    assert all(field.default is not MISSING for field in fields(part))
    return {field.name: type(field.default) for field in fields(part)}


class Parts(Mapping[str, type[T]], Generic[T]):
    """Hold the kinds of one part by name; `register` stands above each class."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._kinds: dict[str, type[T]] = {}

    def register(self, kind: type[T]) -> type[T]:
        """Add a kind of part under its `name`; a class decorator. Raises ValueError where the name is taken."""
        name: str = kind.name  # type: ignore[attr-defined]
        if name in self._kinds:
            raise ValueError(f"{self.what}: name: {name!r} is taken by {self._kinds[name].__name__}")
        self._kinds[name] = kind
        return kind

    def __getitem__(self, name: str) -> type[T]:
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def make(self, owner: str, argument: str, spec: object) -> T:
        """Return the part that `spec` writes, or `spec` itself if it is one. Raises ValueError naming the argument."""
        if isinstance(spec, tuple(self._kinds.values())):
            return cast("T", spec)
        name, _, rest = str(spec).partition(":")
        if not isinstance(spec, str) or name not in self._kinds:
            raise ValueError(f"{owner}: {argument}: expected one of {', '.join(self)}, got {spec!r}")
        kinds, given = setting_kinds(self._kinds[name]), {}
        for part in rest.split(",") if rest else ():
            setting, equals, text = part.partition("=")
            if setting not in kinds or not equals:
                known = ", ".join(kinds) or "none"
                raise ValueError(f"{owner}: {argument}: expected settings of {name} ({known}), got {part!r}")
            given[setting] = parse_value(owner, f"{argument}: {name}: {setting}", kinds[setting], text)
        return self._kinds[name](**given)

    def canonical(self, owner: str, argument: str, spec: object) -> str:
        """Return how the part is written: its name, then the settings that are not the default. Raises as `make`."""
        part: Any = self.make(owner, argument, spec)
        own = [(field.name, getattr(part, field.name)) for field in fields(part)]
        defaults = {field.name: field.default for field in fields(part)}
        changed = [f"{name}={str(v).lower() if isinstance(v, bool) else v}" for name, v in own if v != defaults[name]]
        return ":".join([part.name, *([",".join(changed)] if changed else [])])


class Files(Mapping[str, type[T]], Generic[T]):
    """Hold classes that live in a package, one a module of the same name, imported when they are asked for."""

    def __init__(self, package: str, names: Callable[[], tuple[str, ...]]) -> None:
        self._package = package
        self._names = names
        self._kinds: dict[str, type[T]] = {}

    def register(self, kind: type[T]) -> type[T]:
        """Add a class under its `name`; a class decorator. Raises ValueError where another module has taken it."""
        name: str = kind.name  # type: ignore[attr-defined]
        taken = name in self._names() and kind.__module__ != f"{self._package}.{name}"
        if taken or (name in self._kinds and self._kinds[name].__module__ != kind.__module__):
            raise ValueError(f"{kind.__name__}: name: {name!r} is taken")
        self._kinds[name] = kind
        return kind

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._kinds and name in self._names():
            import_module(f"{self._package}.{name}")
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self._names(), *self._kinds])

    def __len__(self) -> int:
        return len(list(iter(self)))
