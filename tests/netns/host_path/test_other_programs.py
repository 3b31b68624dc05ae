"""Tests other vendors' programs in the same hooks: both must work, and nothing may leak."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from driver.datapath.loading import bpf
from driver.datapath.tables.flows import OPEN, FlowSweeper, Name
from driver.datapath.tables.maps import Maps
from tests.netns.attacks.attack import connected_victim, quiet_server
from tests.netns.talk import client, flows, host_path
from tests.support.fakes.other_sockops import HDR_OPT_LEN, RTT, Other
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine

NO_TIME_WAIT = "reset_on_close(c)"  # TIME_WAIT would last a minute, and count as alive


@contextmanager
def beside_ours(machines: list[Machine], other: Other, order: str) -> Iterator[None]:
    """Attach the other program on all machines, to run before or after ours."""
    with ExitStack() as stack:
        for machine in machines:
            if order == "before":
                bpf.detach(machine.pins / "links" / "sockops")
            stack.enter_context(other.attached(machine.cgroup, machine.pins / "other"))
            if order == "before":
                assert machine.datapath.reattach(0)
        yield


@pytest.fixture(scope="module", params=["adds", "sets", "clears", "writes options"])
def other(request: pytest.FixtureRequest) -> Iterator[tuple[str, Other]]:
    made = Other(request.param)
    yield request.param, made
    made.close()


@pytest.mark.parametrize("order", ["before", "after"])
def test_both_keep_working(machines: list[Machine], across: tuple[Container, Container],
                           other: tuple[str, Other], order: str) -> None:
    """Whatever the other does with the flags, connections work, and slim finds their ends."""
    manner, program = other
    here, there = across
    concerned = list({id(c.machine): c.machine for c in across}.values())
    with beside_ours(machines, program, order):
        quiet_server(there)
        before = {op: program.seen(op) for op in (RTT, HDR_OPT_LEN)}
        with host_path(here, there):
            held = connected_victim(here, there)
        with host_path(here, there, connections=3):
            for _ in range(3):
                client(here, there.address, tell=NO_TIME_WAIT)
        if manner == "adds":
            assert program.seen(RTT) > before[RTT]
        if manner == "writes options":  # it must be called for packets other than SYNs, too
            assert program.seen(HDR_OPT_LEN) > before[HDR_OPT_LEN]
        if manner in ("adds", "writes options") or order == "before":
            wait_until(lambda: flows(here, state=OPEN) == flows(there, state=OPEN) == 1, 30,
                       "the ends to be seen")

        def swept() -> bool:
            for machine in concerned:
                machine.datapath.sweep_lost_flows(older_ns=0)
            return flows(here, state=OPEN) == flows(there, state=OPEN) == 1

        wait_until(swept, 30, "the ends to be found")
        assert held.lives()


def test_a_connection_between_is_not_one_that_was_lost(machines: list[Machine]) -> None:
    """The tuple is in use again before the sweep knows of the loss: the new one must stay."""
    machine = machines[0]
    here, there = machine.container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")
    quiet_server(there)
    held = connected_victim(here, there)
    asked: list[int] = []

    def all_lost(cookie: int, names: Collection[Name]) -> Collection[Name]:
        """Do as if each connection had just ended and begun again."""
        asked.append(cookie)
        table = machine.loaded.table("flows")
        for key, leaf in list(bpf.entries(table)):
            leaf.since_ns += 1
            table[key] = leaf
        return names

    sweeper = FlowSweeper(machine.loaded, Maps(machine.loaded).port_owners, lost=all_lost)
    assert sweeper.sweep_lost(older_ns=0) == 0
    assert asked == [here.netns.cookie]
    assert held.lives()
    assert sweeper.sweep_lost() == 0
    assert asked == [here.netns.cookie], "it is too young to be asked for"
