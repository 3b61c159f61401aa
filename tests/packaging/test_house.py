"""The house keeps its order: no circle of imports and no arrow up, rooms of a size one can read, no path of a machine.

FLOORS is the plan. A room is a module or a package; it may import rooms of its own floor and of those below, and what
is imported inside a function, for its weight or an extra, does not count. A new room fails until it stands in the plan.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"dsc_ext": ROOT, "dsclust": ROOT / "python"}  # package -> the folder it lies in
LONGEST_FILE, LONGEST_FUNCTION = 400, 100

FLOORS = {  # package -> its rooms, from the ground up; "" is the package's own __init__.py
    "dsc_ext": [
        "_checks _native _torch reference",
        "ops",
        "nn optim",
        "",
        "__main__",
    ],
    "dsclust": [
        # Names alone in "": what it offers is imported when asked for.
        " checks files metrics names processes progress samples signs",
        "data presets ridge scale",
        "features graph",
        "parts",
        "methods",
        "training",
        "auto baselines memory predictor report",
        "pipeline",
        "estimators",
        "cli experiments",
        "__main__",
    ],
}

# What exceeds the limits and why it may: file, or file::function -> reason. One that no longer does has to go.
EXCEPTIONS: dict[str, str] = {}


@functools.cache
def modules() -> dict[str, Path]:
    """Return every module of both packages: its full name -> its file."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(statements: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run when the module is imported: those of functions and for type checkers do not."""
    for statement in statements:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield statement
        elif isinstance(statement, (ast.If, ast.Try, ast.With)):
            if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
                continue
            for part in ("body", "orelse", "finalbody"):
                yield from imports(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from imports(handler.body)


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Return which modules of the house each one imports."""
    found: dict[str, set[str]] = {}
    for name, path in modules().items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        targets: set[str] = set()
        for statement in imports(ast.parse(path.read_text()).body):
            if isinstance(statement, ast.Import):
                targets.update(alias.name for alias in statement.names)
                continue
            above = package.split(".")[: len(package.split(".")) + 1 - statement.level] if statement.level else []
            source = ".".join([*above, *([statement.module] if statement.module else [])])
            for alias in statement.names:
                inner = f"{source}.{alias.name}"
                targets.add(inner if inner in modules() else source)
        found[name] = {target for target in targets if target in modules() and target != name}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return a circle of ``graph``, or nothing: what is left when all that only points out of it is taken away."""
    left = {name: set(targets) for name, targets in graph.items()}
    while leaves := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in leaves:
            del left[name]
    if not left:
        return []
    way = [min(left)]
    while way[-1] not in way[:-1]:
        way.append(min(left[way[-1]] & left.keys()))
    return way[way.index(way[-1]) :]


def floor(name: str) -> int | None:
    """Return the floor of the room that a module lies in; None if no plan has that room."""
    package, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    return next((number for number, rooms in enumerate(FLOORS[package]) if room in rooms.split(" ")), None)


def test_a_circle_is_found_and_named() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_no_circle_of_modules() -> None:
    assert not circle(arrows())


def test_every_room_has_a_floor() -> None:
    assert not [name for name in modules() if floor(name) is None], "say in FLOORS where these stand"


def test_no_arrow_up() -> None:
    wrong = [
        f"{name} (floor {floor(name)}) imports {target} (floor {floor(target)})"
        for name, targets in arrows().items()
        for target in sorted(targets)
        if name.partition(".")[0] == target.partition(".")[0] and (floor(name) or 0) < (floor(target) or 0)
    ]
    assert not wrong


def test_the_kernels_know_no_torch_and_the_extension_no_dsclust() -> None:
    """Not even inside a function."""
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.is_file():
            assert not re.search(r'#include\s*[<"](torch|ATen|c10)\b', path.read_text(errors="ignore")), path
    for name, path in modules().items():
        if name.startswith("dsc_ext"):
            assert not re.search(r"^\s*(import|from)\s+dsclust\b", path.read_text(), re.MULTILINE), path


def too_long() -> Iterator[tuple[str, int]]:
    """Yield the files and functions beyond the limits, with their lines."""
    for path in modules().values():
        text, where = path.read_text(), path.relative_to(ROOT).as_posix()
        if (lines := text.count("\n")) > LONGEST_FILE:
            yield where, lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                if (lines := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION:
                    yield f"{where}::{node.name}", lines


def test_no_file_over_400_lines_and_no_function_over_100() -> None:
    found = dict(too_long())
    assert not {where: lines for where, lines in found.items() if where not in EXCEPTIONS}
    assert not EXCEPTIONS.keys() - found.keys(), "no longer too long: take these out of EXCEPTIONS"


@pytest.mark.parametrize("folder", ["python", "dsc_ext", "csrc", "benchmarks", "docs", ".ci", "tests"])
def test_no_file_names_a_path_of_a_machine(folder: str) -> None:
    path = re.compile(r"(?<![\w.:/])/(home|root|tmp|work|Users|mnt|scratch)/\w")
    for file in sorted((ROOT / folder).rglob("*")):
        if file.suffix in {".py", ".cpp", ".cu", ".cuh", ".h", ".txt", ".md", ".sh", ".json", ""} and file.is_file():
            found = path.search(file.read_text(errors="ignore"))
            assert found is None, f"{file.relative_to(ROOT)}: {found and found[0]}"


@pytest.mark.slow
def test_every_line_of_the_table_of_slow_tests_names_one(request: pytest.FixtureRequest) -> None:
    conftest = request.config.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    collected = [item.nodeid for item in request.session.items]
    folders = {node.split("/")[1] for node in collected}
    if folders != {"ops", "packaging", "python", "simt"}:
        pytest.skip("only some of the tests were collected")
    assert not [start for start in conftest.SLOW if not any(re.match(start, node) for node in collected)]
