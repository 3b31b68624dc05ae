"""Tests taking over from a driver with another layout: the flow map must match the sockets."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from driver.datapath.handover import LATE_S, Handover
from driver.datapath.loading.layout import Inheritance
from driver.datapath.loading.load import u16_be
from driver.datapath.tables.flows import OPEN, TIME_WAIT
from driver.link.sandbox.live_sockets import LiveSocket
from driver.services.ports import Attachment, SandboxEntry
from tests.support.world.machines import Machine

PEER_PORTS = range(40001, 40007)


def flows_of(machine: Machine, entry: SandboxEntry) -> dict[int, tuple[int, int]]:
    return {u16_be(key.peer_port_be): (flow.state, flow.socket)
            for key, flow in machine.flows()  # type: ignore[misc]
            if flow.sandbox == entry.cookie}


def test_connections_that_begin_and_end_meanwhile(machines: list[Machine], tmp_path: Path) -> None:
    """Only the older programs see that; no flow of a closed socket may stay."""
    machine = machines[0]
    container = machine.container("10.32.0.2/16")
    (endpoint, veth), = container.endpoints
    assert endpoint.address is not None
    entry = SandboxEntry(container.netns.cookie, veth.host_ifindex, (
        Attachment(endpoint.vni, endpoint.address, endpoint.port, veth.host_ifindex),))
    goes, closes, stays, begins, renewed, late = (
        LiveSocket(machine.underlay, endpoint.port, IPv4Address("198.18.0.99"), port, port, False)
        for port in PEER_PORTS)
    seen = [[goes, closes, stays, renewed],
            [replace(closes, cookie=9, time_wait=True), stays, begins],
            [replace(closes, cookie=9, time_wait=True), begins, replace(renewed, cookie=7), late]]
    now_s = 0.0
    flows = machine.loaded.table("flows")

    def accepted_anew() -> None:
        """Do as our programs once they run: accept a connection from a closed one's port."""
        flow = flows[key]
        flow.socket = 7
        flows[key] = flow

    older = tmp_path / "v0"
    older.mkdir()
    handover = Handover(Inheritance(older, frozenset({"flows"})), lambda _: seen.pop(0),
                        machine.underlay, lambda: now_s)
    handover.adopt(entry, container.netns.path)
    key = flows.Key(int.from_bytes(renewed.peer.packed, "little"), u16_be(renewed.peer_port),
                    u16_be(endpoint.port))
    handover.replace(accepted_anew)
    handover.complete(machine.loaded)
    assert not older.exists()
    assert len(seen) == 1
    assert flows_of(machine, entry) == {
        closes.peer_port: (TIME_WAIT, 9), stays.peer_port: (OPEN, stays.cookie),
        begins.peer_port: (OPEN, begins.cookie), renewed.peer_port: (OPEN, 7)}
    # A connect() that was in an older program when that was replaced.
    now_s = LATE_S
    handover.follow_up(machine.loaded)
    assert flows_of(machine, entry) == {
        closes.peer_port: (TIME_WAIT, 9), begins.peer_port: (OPEN, begins.cookie),
        renewed.peer_port: (OPEN, 7), late.peer_port: (OPEN, late.cookie)}
    handover.follow_up(machine.loaded)  # it has ended: nothing is read any more
    assert not seen
