"""Tests that the pictures of the documentation are there, small, and shown."""

from __future__ import annotations

import re
from pathlib import Path

from tests.netns.page.pictures import PICTURES

MOST_BYTES = 200_000


def test_they_are_those_that_are_made_and_shown(project: Path) -> None:
    found = {each.name for each in (project / "docs/pictures").iterdir()}
    assert found == {f"ui-{name}.png" for name, *_ in PICTURES}
    shown = re.findall(r"\]\(pictures/(ui-\w+\.png)\)", (project / "docs/ui.md").read_text())
    assert set(shown) == found
    assert "docs/pictures/ui-overview.png" in (project / "README.md").read_text()


def test_they_are_small(project: Path) -> None:
    large = {each.name: each.stat().st_size for each in (project / "docs/pictures").iterdir()
             if each.stat().st_size > MOST_BYTES}
    assert large == {}
