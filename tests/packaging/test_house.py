"""The house stands as CONTRIBUTING.md draws it: arrows go down only, no import cycle, no endless function or file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The floors of dsclust, from the ground up. A room imports from its own floor's files and from floors below: rooms that
# share a floor know nothing of each other. A new room is one more name here.
FLOORS = (
    ("names", "checks", "progress", "files", "metrics"),
    ("presets", "samples"),
    ("scale", "data", "ridge", "graph"),
    ("features", "baselines", "report"),
    ("parts",),
    ("methods",),
    ("auto", "memory", "training", "predictor"),
    ("pipeline",),
    ("estimators", "experiments"),
    ("cli",),
    ("__main__",),
)
LONGEST_FUNCTION, LONGEST_FILE = 100, 400
TOO_LONG = {  # path -> why it may be
    "dsc_ext/reference.py": "every op in plain PyTorch, to be read beside one another",
    "python/dsclust/features/map.py": "to be divided",
}


def modules() -> dict[str, Path]:
    """Each module of the two packages by its full name."""
    found = {}
    for folder, package in ((ROOT / "python", "dsclust"), (ROOT, "dsc_ext")):
        for path in (folder / package).rglob("*.py"):
            name = ".".join(path.relative_to(folder).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What runs on import: not functions, nor what is for type checkers alone."""
    for statement in body:
        yield statement
        for field in ("body", "orelse", "finalbody"):
            if isinstance(statement, (ast.If, ast.Try, ast.With)):
                if field == "body" and isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
                    continue
                yield from statements(getattr(statement, field, []))


def imported(path: Path) -> set[str]:
    """Names that a file imports when it is imported, ``from a import b`` as ``a.b``."""
    found: set[str] = set()
    for statement in statements(ast.parse(path.read_text()).body):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path}: imports are absolute"
            found |= {f"{statement.module}.{alias.name}" for alias in statement.names}
    return found


def module_of(name: str) -> str | None:
    """The longest beginning of a dotted name that is a module of ours."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def graph() -> dict[str, set[str]]:
    """Each module and those of ours it imports."""
    return {
        name: {to for used in imported(path) if (to := module_of(used)) not in (None, name)}  # type: ignore[misc]
        for name, path in MODULES.items()
    }


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("package", ["dsc_ext", "dsclust"])
def test_no_module_imports_itself_in_a_round(package: str) -> None:
    inside = {
        name: {to for to in used if to.split(".")[0] == package}
        for name, used in graph().items()
        if name.split(".")[0] == package
    }
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_extension_knows_nothing_of_the_package_above() -> None:
    for name, path in MODULES.items():
        if name.startswith("dsc_ext"):
            assert "dsclust" not in {used.split(".")[0] for used in imported(path)}, path


def test_kernels_know_nothing_of_torch() -> None:
    including = re.compile(r"#\s*include\s*[<\"](torch|ATen|c10|pybind11_torch)[/.]")
    for path in (ROOT / "csrc").rglob("*"):
        if path.suffix in (".h", ".cuh", ".cpp", ".cu"):
            assert not including.search(path.read_text()), path


def test_arrows_between_the_rooms_go_down_only() -> None:
    height = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    rooms = {room(name) for name in MODULES if name.startswith("dsclust.")}
    assert rooms == set(height), "FLOORS must name every room, and no other"
    up = [
        f"{name} imports {to}"
        for name, used in graph().items()
        for to in used
        if name.startswith("dsclust.") and to.startswith("dsclust.")
        if room(name) != room(to) and height[room(to)] >= height[room(name)]
    ]
    assert up == []


def test_no_function_and_no_file_is_endless() -> None:
    wrong, long_files = [], set()
    for path in MODULES.values():
        place, text = path.relative_to(ROOT).as_posix(), path.read_text()
        if len(text.splitlines()) > LONGEST_FILE:
            long_files.add(place)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    wrong.append(f"{place}: {node.name} has {lines} lines")
    assert wrong == []
    assert long_files - set(TOO_LONG) == set(), "divide them, or say in TOO_LONG why not"
    assert set(TOO_LONG) <= long_files, "no longer too long: strike them from TOO_LONG"
