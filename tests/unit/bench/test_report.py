"""Tests tables and charts of made-up results, and the comparison of two files."""

from __future__ import annotations

import dataclasses
import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.harness.errors import BenchError
from bench.harness.workloads import BY_NAME
from bench.report import charts, compare, paper, results
from bench.report import tables as report
from tests.support.fakes.bench_rows import CONDITIONS, rows, run, runs

RR = "tcp round trips"


@pytest.fixture
def drawing() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not in .venv: make setup installs it")


@pytest.mark.parametrize(("value", "shown"), [
    (1234567.0, "1,235,000"), (1000.0, "1,000"), (999.6, "1000"), (123.4, "123"), (12.34, "12.3"),
    (0.01234, "0.0123"), (0.0, "0")])
def test_amounts_have_the_digits_that_count(value: float, shown: str) -> None:
    assert report.amount(value) == shown


def test_the_tables() -> None:
    lines = report.report(rows(), 0.1)
    assert lines[0] == ("virtual machine, 2 cores, 24 GiB; Linux 6.18; 2026-01-02; cubic; runs of "
                        "1 s.")
    assert "### Across hosts" in lines
    assert "|  | host network | slim | Docker's overlay (swarm) |" in lines
    assert ("| Round trips, TCP, 1/s | 1,000 ± 0% | 980 (0.98: 0.98 to 0.98) | "
            "700 (0.70: 0.70 to 0.70) |") in lines
    assert ("| Round trips, TCP, each round trip | 10: 2.5 + 5 + 2.5 | "
            "10.3 (1.03): 2.58 + 5.15 + 2.58 | 14 (1.40): 3.5 + 7 + 3.5 |") in lines
    assert "Connections of slim on the path meant for them: 100 % in every run." in lines
    assert "### Read with care" not in lines


def test_doubts_and_remarks_are_shown() -> None:
    noted = dataclasses.replace(CONDITIONS, note="Others were at work.")
    found = results.rows_of(BY_NAME[RR], runs(RR, host=[run(1), run(2), run(3)]), noted)
    lines = report.report(found, 0.1)
    assert lines[0].endswith("Others were at work.")
    assert "### Read with care" in lines


def test_networks_that_a_workload_lacks_are_dashes() -> None:
    found = [*rows(RR), *[row for row in rows("memcached") if row.network != "overlay"]]
    (line,) = [line for line in report.report(found, 0.1) if line.startswith("| memcached: mean")]
    assert line.endswith("| - |")


def test_ours_beside_the_paper_is_against_the_overlay() -> None:
    throughput, latency, cpu = paper.CLAIMS[:3]
    found = rows("memcached")
    assert charts.change(found, throughput) == pytest.approx(40)
    assert charts.change(found, latency) == pytest.approx(100 * (0.7 / 0.98 - 1))
    assert charts.change(found, cpu) == pytest.approx(100 * (10.3 / 14 - 1))
    assert charts.change(rows("memcached", "local"), cpu) is None


def test_the_claims_are_the_papers() -> None:
    assert {(claim.workload, claim.kind): claim.percent for claim in paper.CLAIMS} == {
        ("memcached", paper.VALUE): 71, ("memcached", paper.LATENCY): -42,
        ("memcached", paper.CPU): -56, ("nginx, keep-alive", paper.CPU): -23,
        ("postgresql", paper.CPU): -22, ("nats", paper.CPU): -10}


def test_charts_are_the_same_each_time(tmp_path: Path, drawing: None) -> None:
    found = [*rows(RR), *rows("memcached"), *rows(RR, "local")]
    written = charts.draw(found, tmp_path, "x")
    assert [path.name for path in written] == [
        "x-cross.svg", "x-local.svg", "x-summary.svg", "x-paper.svg"]
    first = [path.read_bytes() for path in written]
    for text in first:
        assert ET.fromstring(text).tag.endswith("svg")
    assert [path.read_bytes() for path in charts.draw(found, tmp_path, "x")] == first


def test_charts_of_little_are_left_out(tmp_path: Path, drawing: None) -> None:
    hosts_only = results.rows_of(BY_NAME[RR], runs(RR, host=[run(1)]), CONDITIONS)
    assert charts.draw(hosts_only, tmp_path, "x") == []
    assert charts.draw([], tmp_path, "x") == []


def test_before_and_after() -> None:
    old = rows()
    new = results.rows_of(BY_NAME[RR], runs(
        RR, host=[run(100)] * 3, slim=[run(99.5, 10.1)] * 3), CONDITIONS)
    lines = compare.table(old, new)
    (line,) = [line for line in lines if line.startswith("| Round trips, TCP |")]
    assert line == ("| Round trips, TCP | cross | 0.980 (0.980 to 0.980) | "
                    "0.995 (0.995 to 0.995) | better | 1.030 | 1.010 |")
    (line,) = [line for line in compare.table(new, old) if line.startswith("| Round trips, TCP |")]
    assert "| worse |" in line
    # Equal ones are neither.
    assert not [line for line in compare.table(old, old) if "better" in line or "worse" in line]


def test_before_and_after_on_other_kernels_says_so() -> None:
    other = dataclasses.replace(CONDITIONS, kernel="7.0")
    assert compare.table(rows(), rows(conditions=other))[0] == (
        "Not the same kernel: 6.18 before, 7.0 after.")
    with pytest.raises(BenchError, match="no figure of 'weave' in common"):
        compare.table(rows(), rows(), "weave")
