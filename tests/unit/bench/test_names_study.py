"""Tests what the study of names computes without hosts: the table's memory, and its report."""

from __future__ import annotations

from typing import Any

import pytest

from bench.studies.names import __main__ as study
from bench.studies.names import report, table

MACHINE = {"cores": 2, "memory_gib": 24, "kernel": "6.1", "date": "2026-11-30",
           "load_average": 0.1}


def shown(**parts: Any) -> str:
    return "\n".join(report.tables({"machine": MACHINE, "docker": "20.10", **parts}))


def test_a_small_table() -> None:
    found = table.measured((100, 2, 4))
    assert (found["endpoints"], found["names"], found["networks"]) == (100, 2, 4)
    assert min(found["us"].values()) > 0
    assert "| 100 | 2 | 4 |" in shown(table=[found])


def latencies(outside_ms: float) -> dict[str, Any]:
    ways = (report.queries.SAME_HOST, report.queries.DOCKERS, report.queries.OUTSIDE_OFF)
    run = {"p50_ms": 0.25, "p99_ms": 1.0, "lost": 0}
    return {**{way: [run, run] for way in ways},
            report.queries.OUTSIDE_ON: [{**run, "p50_ms": outside_ms}] * 2}


@pytest.mark.parametrize(("outside_ms", "said"), [(0.5, "met"), (0.6, "MISSED")])
def test_what_a_name_outside_takes_longer(outside_ms: float, said: str) -> None:
    lines = shown(latencies=latencies(outside_ms))
    assert f"(median): {said}" in lines
    assert f"median {outside_ms - 0.25:+.2f} ms" in lines


@pytest.mark.parametrize(("late", "said"), [
    ([], "met (0 of 100"), ([201.0], "met (1 of 100"), ([201.0, None], "MISSED (2 of 100")])
def test_one_late_name_of_a_hundred_is_allowed(late: list[float | None], said: str) -> None:
    times = {"docker run -d: found": [*[40.0] * (100 - len(late)), *late],
             "network connect: found": [None]}
    lines = shown(changes=times)
    assert said in lines
    assert "| network connect: found | - | - | - | 1 of 1 |" in lines


def test_growth() -> None:
    has = {"memory_mb": 90.0, "threads": 100, "files": 110}
    lines = shown(growth={
        "before": has, "warm": has, "after": {**has, "memory_mb": 91.5}, "warm_queries": 10,
        "warm_containers": 2, "queries": 90, "containers": 8, "lost": 0, "seconds": 9.0})
    assert "| at the end | 100 | 10 | 91.5 | 100 | 110 |" in lines


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        study.main(["--only", "nothing"])
    assert "argument --only: want some of queries" in capsys.readouterr().err
