"""Tests that docs/compatibility.md has a row for each feature of the lab's tests, and no other."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_feature_has_its_row(project: Path) -> None:
    marked = {name for file in (project / "tests/lab").rglob("test_*.py")
              for name in re.findall(r'^@feature\("(.+)"\)$', file.read_text(), re.M)}
    table = (project / "docs/compatibility.md").read_text().partition("<!-- table -->")[2]
    rows = set(re.findall(r"^\| ([^|-][^|]*?) \|", table.partition("<!-- end")[0], re.M))
    assert marked - rows == set(), "pytest -p tests.lab.rig.compatibility adds it"
    assert rows - marked == set(), "of no test any more: delete the row"
