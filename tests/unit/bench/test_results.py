"""Tests results of the benchmark: from runs to rows and to a file, and which rows replace which."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from bench.harness.errors import BenchError
from bench.harness.options import LATEST, SPREAD_LIMIT
from bench.harness.workloads import BY_NAME
from bench.report import results
from bench.report import tables as report
from tests.support.fakes.bench_rows import CONDITIONS, rows, run, runs

RR = "tcp round trips"


def main_row(found: list[results.Row], network: str = "slim") -> results.Row:
    (row,) = [row for row in found if row.network == network and not row.figure]
    return row


def test_a_row_holds_what_the_issue_asks_for(tmp_path: Path) -> None:
    """Other programs read the JSON, too: a missing name would break them."""
    file = tmp_path / "new" / "latest.json"
    results.save(file, rows())
    written = json.loads(file.read_text())
    assert isinstance(written, list)
    (entry,) = [e for e in written if e["network"] == "slim" and e["figure"] == ""]
    wanted = {"workload": RR, "scope": "cross", "network": "slim", "value": 980.0, "unit": "1/s",
              "rounds": 7}
    assert {name: entry[name] for name in wanted} == wanted
    assert entry["ratio_to_host"] == pytest.approx(0.98)
    assert entry["cpu_us_per_unit"] == pytest.approx(10.3)
    assert entry["cpu_split_us"] == pytest.approx({"user": 2.575, "system": 5.15,
                                                   "softirq": 2.575})
    assert entry["cpu_ratio_to_host"] == pytest.approx(1.03)
    assert entry["host_path_share"] == 1.0
    assert entry["conditions"]["machine"].startswith("virtual machine")
    assert entry["conditions"]["kernel"] == "6.18"
    assert entry["conditions"]["congestion"] == "cubic"
    assert list(tmp_path.rglob("*")) == [file.parent, file]  # nothing beside it


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "latest.json"
    results.save(file, rows())
    again = results.load(file)
    results.save(file, again)
    assert results.load(file) == again
    assert [row.key for row in again] == [row.key for row in rows()]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"workload": "x"}]', '{"rows": []}'])
def test_other_files_are_refused_with_advice(tmp_path: Path, text: str) -> None:
    file = tmp_path / "latest.json"
    file.write_text(text)
    with pytest.raises(BenchError, match="does not hold results of this version"):
        results.load(file)


def test_no_file_is_no_results(tmp_path: Path) -> None:
    assert results.load(tmp_path / "none.json") == []


def test_a_failed_run_leaves_its_round_out_of_the_ratio_only() -> None:
    """Rounds stay aligned: slim's second round must not be compared with the host's first."""
    found = results.rows_of(BY_NAME[RR], runs(
        RR, host=[run(100), run(50), run(10)], slim=[None, run(45), run(9)]), CONDITIONS)
    row = main_row(found)
    assert row.rounds == 2
    assert row.samples == [None, 45, 9]
    assert row.ratio_to_host == pytest.approx(0.9)


def test_without_the_host_there_are_values_and_no_ratios() -> None:
    row = main_row(results.rows_of(BY_NAME[RR], runs(RR, slim=[run(5)]), CONDITIONS))
    assert (row.value, row.ratio_to_host, row.ratio_low, row.cpu_ratio_to_host) == (
        5, None, None, None)
    assert results.rows_of(BY_NAME[RR], runs(RR, slim=[None, None]), CONDITIONS) == []


def test_the_smallest_share_of_the_host_path_counts() -> None:
    found = results.rows_of(BY_NAME[RR], runs(
        RR, host=[run(1)] * 3, slim=[run(1, share=1.0), run(1, share=0.5), run(1, share=1.0)]),
        CONDITIONS)
    assert main_row(found).host_path_share == 0.5
    (doubt,) = results.doubts(found, 0.1)
    assert "took the path meant for them" in doubt
    assert "50%" in doubt


def test_a_later_run_replaces_its_workloads_and_no_others() -> None:
    first = [*rows(RR), *rows(RR, "local"), *rows("memcached")]
    later = [row for row in rows(RR, conditions=dataclasses.replace(CONDITIONS, date="2026-03-04"))
             if row.network != "overlay"]
    found = results.merged(first, later)
    dates = {(row.workload, row.scope, row.network): row.conditions.date for row in found}
    assert dates[RR, "cross", "slim"] == "2026-03-04"
    assert dates[RR, "local", "slim"] == dates["memcached", "cross", "slim"] == "2026-01-02"
    assert (RR, "cross", "overlay") not in dates  # no longer compared
    assert found == results.merged([], found)  # always in the order of the workloads


def test_fabrics_are_kept_apart() -> None:
    other = dataclasses.replace(CONDITIONS, fabric="no-offload")
    found = results.merged(rows(), rows(conditions=other))
    assert len(found) == 2 * len(rows())
    assert found[0].conditions.fabric == "plain"


def test_results_of_two_machines_are_not_mixed() -> None:
    other = dataclasses.replace(CONDITIONS, machine="real machine, 64 cores")
    with pytest.raises(BenchError, match=r"another machine.*--fresh"):
        results.merged(rows(), rows("memcached", conditions=other))


def test_unsteady_host_figures_and_a_busy_hypervisor_are_told() -> None:
    assert results.doubts(rows(), 0.1) == []
    found = results.rows_of(BY_NAME[RR], runs(
        RR, host=[run(100), run(150, stolen=0.3), run(50)], slim=[run(90)] * 3), CONDITIONS)
    spread, stolen = results.doubts(found, 0.1)
    assert "Round trips, TCP (cross) 50%" in spread
    assert "more than 10%" in spread
    assert "Round trips, TCP (cross) 30%" in stolen


def test_a_machine_that_was_busy_before_is_told() -> None:
    busy = dataclasses.replace(CONDITIONS, busy_cpus=1.25)
    (doubt,) = results.doubts([*rows("memcached"), *rows(conditions=busy)], 0.1)
    assert "on up to 1.2 CPUs" in doubt
    assert doubt.endswith("theirs: Round trips, TCP.")


def test_the_committed_results_are_whole() -> None:
    """They are of this version, and the tables beside them are made from them."""
    found = results.load(LATEST)
    assert found
    assert LATEST.with_suffix(".md").read_text() == "\n".join(
        report.report(found, SPREAD_LIMIT)) + "\n"
    assert found == results.merged([], found)
