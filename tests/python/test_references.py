"""Names in docstrings lead somewhere: a module or a function that moves takes its mentions along."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import dsclust

SOURCES = sorted(Path(dsclust.__file__).parent.rglob("*.py"))
MENTION = re.compile(r"\bdsclust(?:\.[a-z_]+)+(?:\.[A-Za-z_]+)*")


def leads_somewhere(mention: str) -> bool:
    parts = mention.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for name in parts[end:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


def test_every_mention_of_a_name_leads_to_it():
    mentions = {(path.name, m) for path in SOURCES for m in MENTION.findall(path.read_text(encoding="utf-8"))}
    assert len(mentions) > 100
    assert not [f"{name}: {mention}" for name, mention in sorted(mentions) if not leads_somewhere(mention)]
