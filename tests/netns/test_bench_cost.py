"""Tests that `bench.studies.cost` measures all ways and programs, `growth` and `overlay` theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.studies import cost, growth, overlay
from driver.link.pairs.veth import probe_kind


def test_a_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cost.json"
    before = cost.STATS.read_text()
    assert cost.main(["--rounds", "1", "--seconds", "0.2", "--json", str(out)]) == 0
    assert cost.STATS.read_text() == before
    found = json.loads(out.read_text())
    has_netkit = probe_kind("auto") == "netkit"
    for ways in found["ratio_to_host"].values():
        assert set(ways) == {cost.HOST, cost.SLIM, cost.ROUTED, *([cost.SLIM_VETH] * has_netkit)}
        assert min(ways.values()) > 0
    # A connection is one connect(); where it is sent, a program sees each packet once.
    assert found["programs"]["connections"]["connect4"][0] == pytest.approx(1, abs=0.3)
    # A netkit pair has its own hook, which leaves no packet to the other.
    sends = "from_container_direct" if has_netkit else "from_container"
    assert found["programs"]["round trips"][sends][0] == pytest.approx(2, abs=0.5)
    for programs in found["programs"].values():
        assert {"from_container", "from_container_direct"} & set(programs) == {sends}
    printed = capsys.readouterr().out
    assert "| round trips, slim |" in printed
    assert "| connections: sockops |" in printed


def test_what_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "growth.json"
    assert growth.main(["--rounds", "1", "--seconds", "0.1", "--up-to", "100",
                        "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {what: [step["count"] for step in steps] for what, steps in found.items()} == {
        "endpoints on each host": [10, 100], "entries of the directory": [100],
        "open connections": [10]}
    assert all(step[kind]["ebpf_ns"] > 0 for steps in found.values() for step in steps
               for kind in cost.KINDS)
    assert out.with_suffix(".svg").read_text().startswith("<?xml")
    assert "| entries of the directory | 100 |" in capsys.readouterr().out


@pytest.mark.timeout(500)  # it measures in many short runs
def test_the_overlay_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert overlay.main(["--rounds", "1", "--seconds", "0.1", "--fabric", "card"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(overlay.WORKLOADS)


def test_it_says_that_it_needs_root(monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cost.os, "geteuid", lambda: 1000)
    assert cost.main([]) == 2
    assert "needs root" in capsys.readouterr().err
