"""Tests `bench/run` against two hosts as if they were machines: Docker contexts, real containers.

It must end, report, and leave nothing behind; the `hosts` fixture compares links, rules, maps,
containers and networks.  The tests do not judge what it measures.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab.rig.hosts import PROJECT, Host
from tests.support.run.wait import wait_until

RUN = str(PROJECT / "bench" / "run")
SHORT = ("--only", "tcp round trips", "--networks", "host,slim", "--rounds", "1",
         "--seconds", "0.2")
ROUND_TRIPS = {"", "p50", "p99", "p99.9"}


@pytest.fixture
def contexts(h1: Host, h2: Host, tmp_path: Path) -> dict[str, str]:
    """An environment in which `docker --context one` and `two` are h1 and h2."""
    env = {**os.environ, "DOCKER_CONFIG": str(tmp_path / "docker")}
    env.pop("DOCKER_HOST", None)
    for name, host in (("one", h1), ("two", h2)):
        subprocess.run(["docker", "context", "create", name, "--docker",
                        f"host=unix://{host.folder}/docker.sock"], env=env, check=True,
                       capture_output=True)
    return env


def arguments(host: Host, out: Path) -> list[str]:
    # This machine's congestion control, whichever it is, does for this test.
    own = host.exec("cat", "/proc/sys/net/ipv4/tcp_congestion_control").strip()
    return [RUN, "--contexts", "one,two", "--congestion", own, "--out", str(out)]


def images(host: Host) -> str:
    return host.docker("images", "-q", "slim-bench")


def test_a_short_run_reports_and_leaves_nothing(h1: Host, h2: Host, contexts: dict[str, str],
                                                tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    done = subprocess.run([*arguments(h1, out), *SHORT], env=contexts, capture_output=True,
                          text=True, check=False, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())
    assert {(row["network"], row["scope"], row["figure"]) for row in rows} == {
        (network, scope, figure) for network in ("host", "slim") for scope in ("cross", "local")
        for figure in ROUND_TRIPS}
    for row in rows:
        assert row["value"] > 0
        assert row["workload"] == "tcp round trips"
        if not row["figure"]:
            assert row["cpu_us_per_unit"] > 0
            assert row["host_path_share"] == (1.0 if row["network"] == "slim" else None)
    assert "Connections of slim on the path meant for them: 100 % in every run." in done.stdout
    assert "| Round trips, TCP, 1/s |" in out.with_suffix(".md").read_text()
    assert images(h1) == images(h2) == ""


def test_an_interrupted_run_leaves_nothing(h1: Host, h2: Host, contexts: dict[str, str],
                                           tmp_path: Path) -> None:
    """Ctrl-C comes in the middle of a run, and again while it cleans up."""
    log = tmp_path / "log"
    with log.open("w") as into:
        process = subprocess.Popen(
            [*arguments(h1, tmp_path / "results.json"), *SHORT, "--seconds", "60", "--scopes",
             "cross"], env=contexts, stdout=into, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        wait_until(lambda: "round 1/1" in log.read_text() or process.poll() is not None, 60,
                   "the first round begins")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: "cleaning up" in log.read_text(), 30, "it cleans up")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert images(h1) == images(h2) == ""
    assert not (tmp_path / "results.json").exists()


def test_a_network_that_does_not_exist_is_named(h1: Host, contexts: dict[str, str],
                                                tmp_path: Path) -> None:
    done = subprocess.run(
        [*arguments(h1, tmp_path / "results.json"), "--only", "latency", "--networks", "host,slm"],
        env=contexts, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert done.returncode == 1
    assert "slm" in done.stdout
    assert "not found" in done.stdout
