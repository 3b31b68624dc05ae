"""Tests the order of runs and the counts of one run, with fake agents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from bench.harness import session
from bench.harness.engine import Agent
from bench.harness.errors import BenchError
from bench.harness.placement import Path
from bench.harness.progress import Progress, duration
from bench.harness.runs import measure
from bench.harness.session import Effort
from bench.harness.workloads import BY_NAME

EFFORT = Effort(rounds=3, seconds=1.0, first_port=21000, machines=1)
RR, POSTGRESQL = BY_NAME["tcp round trips"], BY_NAME["postgresql"]
SAID = ('{"count": 1000, "seconds": 1.0, "lost": 0, "p50_us": 1, "p99_us": 2, "p999_us": 3, '
        '"connect_p50_us": 0, "connect_p99_us": 0}')


class FakeAgent:
    """Answers as the real agent does; a second of a run costs what `cpu_us` says."""

    def __init__(self, name: str, log: list[str], cpu_us: float = 5000, opened: int = 1,
                 fails: str = "", *, counter: str = "connected") -> None:
        self.name, self.log, self.fails, self.counter = name, log, fails, counter
        self._cpu_us, self._opens, self._time, self.connected = cpu_us, opened, 0, 0

    def ask(self, action: str, takes_s: float = 0, **arguments: Any) -> dict[str, Any]:
        if action == self.fails:
            raise BenchError(f"{self.name}: {action} failed")
        if action == "counters":
            return {"Counters": {"connected": 0, "local": 0, self.counter: self.connected}}
        if action == "read":
            return self._read()
        if action == "log":
            return {"log": "the server's last words"}
        self.log.append(f"{self.name} {action}")
        return {}

    def run(self, argv: Sequence[str], timeout_s: float, env: dict[str, str] | None = None
            ) -> dict[str, Any]:
        self.log.append(f"{self.name} {argv[0]}")
        if argv[0] == self.fails:
            raise BenchError(f"{self.name}: {argv[0]} failed")
        before = self._read()
        self._time += 1
        self.connected += self._opens
        return {"out": SAID, "before": before, "after": self._read(), "seconds": 1.0}

    def _read(self) -> dict[str, Any]:
        each = self._cpu_us * self._time
        return {"cpu": {"user": each, "system": 2 * each, "softirq": 0.0}, "steal_us": 0,
                "slab_kb": 0, "boot_id": "one", "opened": self._opens * self._time,
                "retransmitted": self._time, "sent": 100 * self._time}


def path(network: str, client: FakeAgent, server: FakeAgent, scope: str = "cross",
         driver: FakeAgent | None = None) -> Path:
    return Path(network, scope, cast(Agent, client), cast(Agent, server), "10.0.0.2", {},
                cast(Agent, driver))


def test_rounds_are_interleaved_and_each_network_is_first_once() -> None:
    log: list[str] = []
    paths = [path(name, FakeAgent(name, log), FakeAgent(f"server-{name}", []))
             for name in ("host", "slim", "overlay")]
    found = session.measure_group([RR], paths, EFFORT, Progress(9), log.append)
    ran = [line.split()[0] for line in log if line.endswith(" netbench")]
    assert ran == ["host", "slim", "overlay", "slim", "overlay", "host", "overlay", "host", "slim"]
    assert found.failed == []
    assert [len(runs) for runs in found.runs.values()] == [3, 3, 3]


def test_a_run_that_fails_leaves_a_gap_and_stops_nobody_else() -> None:
    said: list[str] = []
    paths = [path("host", FakeAgent("host", []), FakeAgent("s1", said)),
             path("slim", FakeAgent("slim", [], fails="netbench"), FakeAgent("s2", said))]
    found = session.measure_group([RR], paths, EFFORT, Progress(6), said.append)
    assert found.runs[RR.name, "cross", "slim"] == [None, None, None]
    assert None not in found.runs[RR.name, "cross", "host"]
    assert len(found.failed) == 3
    assert [line for line in said if line.startswith("failed: tcp round trips, slim, cross")]
    assert [line for line in said if line.endswith("stop")] == ["s1 stop", "s2 stop"]


def test_servers_that_do_not_come_up_are_shown_with_their_log_and_stopped() -> None:
    log: list[str] = []
    ways = [path("slim", FakeAgent("client", [], fails="wait"), FakeAgent("server", log))]
    with pytest.raises(BenchError, match=r"netbench on slim, cross.*\nthe server's last words"):
        session.measure_group([RR], ways, EFFORT, Progress(3), log.append)
    assert log[-1] == "server stop"


def test_a_server_of_both_scopes_is_started_and_prepared_once() -> None:
    log: list[str] = []
    server = FakeAgent("server", log)
    ways = [path("host", FakeAgent("far", log), server),
            path("host", FakeAgent("near", log), server, "local")]
    session.measure_group([POSTGRESQL], ways, replace(EFFORT, rounds=0), Progress(9), log.append)
    assert log == ["server start", "far wait", "far pgbench", "near wait", "server stop"]


def test_what_a_run_counts() -> None:
    client = FakeAgent("client", [])
    found = measure(RR, path("slim", client, FakeAgent("server", []), driver=client), 1.0, 21000, 1)
    assert found.figures["p99.9"] == 3
    assert found.cpu_us == {"user": 5, "system": 10, "softirq": 0}  # 1,000 round trips
    assert found.retransmitted_share == 0.01
    assert found.host_path_share == 1.0


def test_connections_that_took_another_way_are_seen() -> None:
    client = FakeAgent("client", [], opened=4)
    found = measure(RR, path("slim", client, FakeAgent("server", []), driver=FakeAgent("d", [])),
                    1.0, 21000, 1)
    assert found.host_path_share == 0
    udp = measure(BY_NAME["udp round trips"], path("slim", client, client, driver=client), 1.0,
                  21000, 1)
    assert udp.host_path_share is None


@pytest.mark.parametrize(("scope", "meant", "other"), [
    ("cross", "connected", "local"), ("local", "local", "connected")])
def test_on_one_host_connections_are_meant_to_go_directly(scope: str, meant: str, other: str
                                                          ) -> None:
    for counter, share in ((meant, 1), (other, 0)):
        client = FakeAgent("client", [], counter=counter)
        found = measure(RR, path("slim", client, FakeAgent("server", []), scope, driver=client),
                        1.0, 21000, 1)
        assert found.host_path_share == share


def test_the_time_left_follows_the_pace() -> None:
    now_s = 7.0
    progress = Progress(100, lambda: now_s)
    now_s = 12.0
    assert progress.left_s() == 100
    progress.done(10)
    now_s = 27.0
    assert progress.left_s() == pytest.approx(180)  # twice as slow as expected
    progress.done(95)
    now_s = 507.0
    assert progress.left_s() == 0
    assert (duration(61.2), duration(9.6)) == ("1 min 1 s", "10 s")
