"""Tests containers' interfaces: netkit where the kernel has it (tests/vm/run.sh), else veth."""

from __future__ import annotations

import json
from functools import partial

from driver.datapath.attachments import attach_to_netkit
from driver.link.pairs.veth import probe_kind
from tests.netns.talk import client, server
from tests.support.world.machines import Container, Machine


def has_netkit() -> bool:
    return probe_kind("auto") == "netkit"


def test_the_hook_of_a_netkit_pair_is_replaced_in_place(machines: list[Machine]) -> None:
    machine = machines[0]
    container = machine.container("10.32.0.2/16")
    (_, veth), = container.endpoints
    for name in ("to_container", "from_container_direct"):  # a second program would be refused
        attach = partial(attach_to_netkit, machine.loaded.programs[name], veth.host_ifindex)
        assert machine.netns.call(attach) == has_netkit()


def crossed(container: Container) -> int:
    """Count the packets that came to the host's end of its pair so far."""
    (_, pair), = container.endpoints
    links = json.loads(container.machine.netns.ip("-j -s link show"))
    return next(int(link["stats64"]["rx"]["packets"]) for link in links
                if link["ifindex"] == pair.host_ifindex)


def talk(here: Container, there: Container) -> tuple[int, int]:
    """Connect, then ping; return how many of the caller's packets crossed for each."""
    serving = server(there)
    before = crossed(here)
    client(here, there.address)
    between = crossed(here)
    here.run("ping", "-c3", "-i0.05", "-W2", there.address)
    serving.end()
    return between - before, crossed(here) - between


def test_only_packets_for_other_hosts_leave_at_the_senders_end(machines: list[Machine]) -> None:
    here, neighbour = (machines[0].container(f"10.32.0.{last}/16") for last in (2, 3))
    away = machines[1].container("10.32.0.4/16")
    for container in (here, neighbour, away):  # IPv6 sends unasked, which would count here
        container.netns.sysctl("ipv6.conf.all.disable_ipv6", 1)
    local, remote = talk(here, neighbour), talk(here, away)
    assert local[0] >= 5
    assert local[1] == 3
    if has_netkit():
        assert remote == (0, 0)
    else:
        assert remote[0] >= 5
        assert remote[1] == 3


def test_what_is_dropped_is_no_error_to_its_sender(machines: list[Machine]) -> None:
    container = machines[0].container("10.32.0.2/16")
    with machines[0].counting() as grown:
        said = container.run("ping", "-c2", "-i0.05", "-W1", "10.32.0.99", check=False)
    assert grown["unknown_destination"] == 2
    assert "100% packet loss" in said.stdout
    assert not said.stderr
