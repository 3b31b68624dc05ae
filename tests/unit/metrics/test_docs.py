"""Tests that docs/metrics.md has each family as it is, and that the example names no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from driver.metrics.families import FAMILIES, SCRAPE_ERRORS
from tests.support.metrics import PROCESS, named

ROW = re.compile(r"^\| `(slim_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", re.MULTILINE)


def test_each_family_has_its_row(project: Path) -> None:
    rows = ROW.findall((project / "docs/metrics.md").read_text())
    told = [(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows
            if name not in PROCESS]
    assert told == [(each.name, each.kind, each.labels) for each in (*FAMILIES, SCRAPE_ERRORS)]
    assert {name for name, *_ in rows} >= PROCESS


@pytest.mark.parametrize("file", ["alerts.yml", "grafana/slim.json"])
def test_the_example_asks_for_what_there_is(project: Path, file: str) -> None:
    found = named((project / "examples/monitoring" / file).read_text())
    assert len(found) > 5
    assert found <= {each.name for each in (*FAMILIES, SCRAPE_ERRORS)} | PROCESS


def test_the_dashboards_panels_do_not_overlap(project: Path) -> None:
    board = json.loads((project / "examples/monitoring/grafana/slim.json").read_text())
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + right, at["y"] + down) for right in range(at["w"])
                 for down in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
