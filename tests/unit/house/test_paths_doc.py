"""Tests that docs/paths.md names a test for each row, and every reason to leave the host path."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from driver.datapath.code.reasons import read_reasons


@pytest.fixture
def rows(project: Path) -> dict[str, list[str]]:
    """The document's rows: what -> path, why, counter, test."""
    lines = re.findall(r"^\| (.+) \|$", (project / "docs/paths.md").read_text(), re.M)
    cells = [line.split(" | ") for line in lines]
    assert {len(each) for each in cells} == {5}
    return {what: rest for what, *rest in cells[1:]}


def _missing(project: Path, tests: str) -> list[str]:
    named = re.findall(r"`(\S+)::(test_\w+)`", tests)
    missing = [f"{file}::{test}" for file, test in named
               if not (project / "tests" / file).exists()
               or not re.search(rf"^def {test}\(", (project / "tests" / file).read_text(), re.M)]
    return missing if named else ["no test is named"]


def test_every_row_has_its_test(project: Path, rows: dict[str, list[str]]) -> None:
    missing = {what: _missing(project, tests) for what, (*_, tests) in rows.items()}
    assert {what: which for what, which in missing.items() if which} == {}


def test_every_fallback_has_its_row(rows: dict[str, list[str]]) -> None:
    reasons = {reason.name: reason.kind for reason in read_reasons()}
    named = {name for *_, counters, _ in rows.values()
             for name in re.findall(r"`(\w+)`", counters)}
    assert named - set(reasons) == set()
    assert {name for name, kind in reasons.items() if kind == "fallback"} - named == set()


def test_it_is_linked(project: Path) -> None:
    assert "docs/paths.md" in (project / "README.md").read_text()
    assert "(paths.md)" in (project / "docs/architecture.md").read_text()
