"""Tests that docs/performance.md shows the committed results, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench.harness.options import LATEST
from bench.report import document, results


def test_the_tables_are_those_of_the_results(project: Path) -> None:
    text = (project / "docs/performance.md").read_text()
    assert document.written(text, results.load(LATEST)) == text, "python -m bench.report.document"


def test_other_results_give_other_tables(project: Path) -> None:
    text = (project / "docs/performance.md").read_text()
    rows = [dataclasses.replace(row, value=row.value * 2) for row in results.load(LATEST)]
    assert document.written(text, rows) != text


def test_a_table_without_its_place(project: Path) -> None:
    text = (project / "docs/performance.md").read_text()
    with pytest.raises(ValueError, match="0 places for table latencies"):
        document.written(text.replace("table: latencies", "table: other"), results.load(LATEST))
