"""Tests giving flows another interface while connections begin and end: no change may be lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from driver.datapath.loading import bpf
from driver.datapath.tables.flows import OPEN, TIME_WAIT
from driver.link.underlay.vxlan import overlay_mtu
from driver.services.ports import Attachment, SandboxEntry
from tests.netns.attacks.attack import connected_victim, quiet_server
from tests.netns.talk import RELEASE_S, flows, start, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import MTU, Container, Machine

MOVES = 50


def over(container: Container, index: int) -> SandboxEntry:
    """Return the container's entry with this endpoint's interface as the primary."""
    return SandboxEntry(
        container.netns.cookie, container.endpoints[index][1].host_ifindex, tuple(
            Attachment(each.vni, each.address, each.port, veth.host_ifindex)
            for each, veth in container.endpoints if each.address is not None))


def move(container: Container, index: int) -> None:
    """Do as when the primary interface leaves: first the routes inside."""
    machine, (endpoint, veth) = container.machine, container.endpoints[index]
    machine.sandboxes.set_up(container.netns.path, endpoint, veth, underlay=machine.underlay,
                             overlay_mtu=overlay_mtu(MTU), primary=True)
    machine.datapath.publish_sandbox(over(container, index), container.netns.path)


def flow_of(machine: Machine, port: int) -> Any:
    (found,) = [leaf for key, leaf in bpf.entries(machine.loaded.table("flows"))
                if key.local_port_be == int.from_bytes(port.to_bytes(2, "big"), "little")]
    return found


def test_a_connection_that_ends_meanwhile(
        machines: list[Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends between the driver's look at the map and its change."""
    machine = machines[0]
    here = machine.container("10.32.0.2/16", "10.33.0.2/16")
    there = machines[1].container("10.32.0.3/16")
    quiet_server(there)
    ends, stays = connected_victim(here, there), connected_victim(here, there)
    table, read = machine.loaded.table("flows"), bpf.entries

    def entries(of: Any) -> Iterator[tuple[Any, Any]]:
        found = list(read(of))
        if of is table and ends.program.process.poll() is None:
            ends.program.end()
            wait_until(lambda: any(leaf.state == TIME_WAIT for _, leaf in read(table)), 30,
                       "its end")
        yield from found

    monkeypatch.setattr(bpf, "entries", entries)
    machine.datapath.publish_sandbox(over(here, 1), here.netns.path)
    new = here.endpoints[1][1].host_ifindex
    for each, state in ((ends, TIME_WAIT), (stays, OPEN)):
        found = flow_of(machine, each.port)
        assert (found.ifindex, found.state) == (new, state)


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_busy_container_whose_interface_changes_all_the_time(
        machines: list[Machine], side: str) -> None:
    machine = machines[0]
    mine = machine.container("10.32.0.2/16", "10.33.0.2/16")
    others = machines[1].container("10.32.0.3/16")
    here, there = (mine, others) if side == "client" else (others, mine)
    server = started(there, """
        server = listen("0.0.0.0", 80)
        ready()
        while True:
            server.accept()[0].close()
    """)
    busy = start(here, """
        ends, done = [], 0
        threading.Thread(target=lambda: ends.append(sys.stdin.readline()), daemon=True).start()
        while not ends or done < 200:
            c = connected(sys.argv[1], 80)
            assert c.recv(1) == b""
            c.close()
            done += 1
        print(done)
    """, there.address)
    for number in range(1, MOVES + 1):
        move(mine, number % 2)
    busy.say("enough")
    assert int(busy.rest()) >= 200
    server.end()  # a SYN that was sent twice may be on its way: nobody accepts it any more
    wait_until(lambda: flows(here) == flows(there) == 0, RELEASE_S,
               "all flows to be released: none is open again")


def test_more_flows_than_one_run_moves(machines: list[Machine]) -> None:
    """Flows of other containers stay where they are."""
    machine = machines[0]
    here = machine.container("10.32.0.2/16", "10.33.0.2/16")
    other = machine.container("10.32.0.4/16")
    there = machines[1].container("10.32.0.3/16")
    quiet_server(there)
    another = connected_victim(other, there)
    many = started(here, """
        held = [connected(sys.argv[1], 80) for _ in range(600)]
        ready()
        for line in sys.stdin:
            print(all(asked(c) == b"hello" for c in held), flush=True)
    """, there.address)
    move(here, 1)
    new, cookie = here.endpoints[1][1].host_ifindex, here.netns.cookie
    found = [(leaf.sandbox == cookie, leaf.ifindex)
             for _, leaf in bpf.entries(machine.loaded.table("flows"))]
    assert sorted(found) == [(False, other.endpoints[0][1].host_ifindex), *[(True, new)] * 600]
    many.say("ask")
    assert many.line() == "True"
    assert another.lives()
