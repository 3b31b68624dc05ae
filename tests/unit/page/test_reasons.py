"""Tests that what the page advises is what docs/counters.md advises.

    .venv/bin/python -m tests.unit.page.test_reasons      writes the page's file anew
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from driver.api.page.app import STATIC

FILE = STATIC / "reasons.json"


def documented(project: Path) -> dict[str, dict[str, str]]:
    """Return the table of docs/counters.md, without links."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*) \|$",
                      (project / "docs/counters.md").read_text(), re.M)
    return {name: {"Kind": kind, "Meaning": unlinked(meaning), "Remedy": unlinked(remedy)}
            for name, kind, meaning, remedy in rows}


def unlinked(text: str) -> str:
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)


def test_they_are_the_documents(project: Path) -> None:
    assert json.loads(FILE.read_text()) == documented(project)


if __name__ == "__main__":
    FILE.write_text(json.dumps(documented(Path(__file__).parents[3]), indent=1,
                               ensure_ascii=False) + "\n")
