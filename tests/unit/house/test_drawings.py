"""The drawings of docs/ are XML that a browser shows, and name nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

DRAWINGS = ("connection", "join", "overlay-packet")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_says_what_it_shows_and_is_shown(project: Path, name: str) -> None:
    drawing = ElementTree.parse(project / f"docs/drawings/{name}.svg").getroot()
    for said in ("title", "desc"):
        found = drawing.find(f"{SVG}{said}")
        assert found is not None
        assert found.text
    assert f"drawings/{name}.svg" in (project / "docs/architecture.md").read_text()


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_counters_that_it_names_exist(project: Path, name: str) -> None:
    text = (project / f"docs/drawings/{name}.svg").read_text()
    counters = (project / "docs/counters.md").read_text()
    found = {each for names in re.findall(r"\(([a-z_, …]+)\)", text)
             for each in names.replace("…", "").replace(",", " ").split() if "_" in each}
    assert {each for each in found if f"`{each}`" not in counters} == set()
    assert found or name == "join"
