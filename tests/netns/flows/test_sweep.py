"""Tests the sweep of the flow map while connections begin."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from driver.datapath.loading import bpf
from driver.datapath.tables.flows import REMOVAL_NS, TIME_WAIT, TIME_WAIT_NS, FlowSweeper
from driver.datapath.tables.maps import Maps
from tests.netns.attacks.attack import Victim, connected_victim, quiet_server
from tests.netns.talk import Program, client, host_path, overlay, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import Machine


def test_a_container_starts_and_connects_meanwhile(machines: list[Machine]) -> None:
    """The sweep does not know its sandbox."""
    machine, there = machines[0], machines[1].container("10.32.0.3/16")
    quiet_server(there)
    begun: list[Victim] = []

    def owners() -> dict[int, int]:
        known = Maps(machine.loaded).port_owners()
        begun.append(connected_victim(machine.container("10.32.0.2/16"), there))
        return known

    FlowSweeper(machine.loaded, owners).sweep()
    assert begun[0].lives()


_HOLD = """
    c = connected(sys.argv[1], 80, bind=("", int(sys.argv[2])), timeout_s=20)
    ready()
    for line in sys.stdin:
        print(asked(c, line.encode()) == line.encode(), flush=True)
"""
PORT = 5555


def _in_time_wait(machine: Machine, age_ns: int) -> Any:
    """Wait for a flow in TIME_WAIT, age it, and return its key."""
    table = machine.loaded.table("flows")

    def closed() -> list[Any]:
        return [(key, leaf) for key, leaf in bpf.entries(table) if leaf.state == TIME_WAIT]

    (key, leaf), = wait_until(closed, 30, "the connection is in TIME_WAIT")
    leaf.since_ns = time.monotonic_ns() - age_ns
    table[key] = leaf
    return key


def test_a_connection_takes_an_entry_over_meanwhile(
        machines: list[Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """A connect() takes over an old TIME_WAIT entry just before the sweep would remove it."""
    machine = machines[0]
    here, there = machine.container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")
    quiet_server(there)
    client(here, there.address, bind=("0.0.0.0", PORT))
    table = machine.loaded.table("flows")
    _in_time_wait(machine, age_ns=2 * TIME_WAIT_NS)
    begun: list[Program] = []
    read = bpf.entries

    def entries(of: Any) -> Iterator[tuple[Any, Any]]:
        yield from read(of)
        if of is table:
            begun.append(started(here, _HOLD, there.address, PORT))

    monkeypatch.setattr(bpf, "entries", entries)
    assert machine.datapath.sweep_flows() == 0
    begun[0].say("still here?")
    assert begun[0].line() == "True"
    assert list(bpf.entries(machine.loaded.table("takeovers"))) == []


def test_one_at_a_time_takes_an_entry_over(machines: list[Machine]) -> None:
    """While one removes a stale entry, neither another connect() nor the sweep touches it."""
    machine = machines[0]
    here, there = machine.container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")
    quiet_server(there)
    client(here, there.address, bind=("0.0.0.0", PORT))
    key = _in_time_wait(machine, age_ns=2 * TIME_WAIT_NS)
    takeovers = machine.loaded.table("takeovers")
    takeovers[key] = takeovers.Leaf(time.monotonic_ns())
    with overlay(here, there, because="flow_refused"):
        client(here, there.address, bind=("0.0.0.0", PORT))
    assert machine.datapath.sweep_flows() == 0
    takeovers[key] = takeovers.Leaf(time.monotonic_ns() - 2 * REMOVAL_NS)  # a killed driver's
    assert machine.datapath.sweep_flows() == 1
    assert list(bpf.entries(takeovers)) == []
    with host_path(here, there):
        client(here, there.address, bind=("0.0.0.0", PORT))
