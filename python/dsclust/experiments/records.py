"""Records of runs: their file, and how they group. A record holds what identifies a run, and what it gave."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dsclust.files import write_json
from dsclust.report import versions

Record = dict[str, Any]
FORMAT = 1


def read_records(results: Path, name: str) -> list[Record]:
    """Read the records of an earlier start, or none. Raises ValueError for a file of another kind."""
    if not results.is_file():
        return []
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
        if (content["experiment"], content["format"]) != (name, FORMAT):
            raise ValueError(f"it holds {content['experiment']!r} in format {content['format']}")
        return list(content["records"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{results}: expected records of the experiment {name} ({error})") from error


def write_records(results: Path, name: str, records: list[Record]) -> None:
    """Write records with the machine and the versions they come from, in an order of their own; atomically."""
    results.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "experiment": name,
        "format": FORMAT,
        "machine": {"cpu": _processor(), "cores": os.cpu_count()},
        "versions": versions(),
        "records": sorted(records, key=lambda r: (r["data"], r["label"], r["seed"])),
    }
    write_json(results, content)


def _processor() -> str:
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def arms_of(records: Iterable[Record], data: str) -> dict[str, list[Record]]:
    """Group the records of the methods on a data set by the label of their arm."""
    arms: dict[str, list[Record]] = {}
    for record in records:
        if record["data"] == data and "scores" in record:
            arms.setdefault(record["label"], []).append(record)
    return arms


def baselines_of(records: Iterable[Record], data: str) -> dict[str, list[Record]]:
    """Group the records of the baselines on a data set by their name."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record["data"] == data:
            for one in record.get("baselines", []):
                found.setdefault(one["method"], []).append(one)
    return found
