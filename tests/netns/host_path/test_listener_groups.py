"""Tests listeners with SO_REUSEPORT on a kernel that does not assign packets to them (before 6.6).

This kernel may be newer: then only slim's programs believe that it is such a one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.netns.kept_off.noted import IPV6_OPTIONS, LISTENER_GROUP, noted, told, withheld
from tests.netns.talk import client, host_path, overlay, run, server
from tests.support.world import netns
from tests.support.world.machines import Cluster, Container, lent

Pair = tuple[Container, Container]
THERE6 = "fd00:32::3"
_SET = """
with socket.socket(socket.{family}, socket.SOCK_STREAM, {protocol}) as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
"""


@pytest.fixture(scope="module", params=[False, True], ids=["before 6.6", "since"])
def assigns(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def hosts(assigns: bool) -> Iterator[Cluster]:
    netns.require_root()
    with ExitStack() as stack:
        cluster = Cluster(stack)
        for _ in range(2):
            cluster.add_machine(assigns_groups=assigns)
        yield cluster


@pytest.fixture
def pair(hosts: Cluster) -> Iterator[Pair]:
    with lent(hosts) as machines:
        made = machines[0].container(), machines[1].container()
        for number, one in enumerate(made, 2):
            one.machine.connect(one, f"10.32.0.{number}/16", address6=f"fd00:32::{number}/64")
        yield made


def test_mptcp(pair: Pair, assigns: bool) -> None:
    if not Path("/proc/sys/net/mptcp").exists():
        pytest.skip("this kernel has no MPTCP")
    here, there = pair
    server(there)
    run(there, _SET.format(family="AF_INET", protocol="socket.IPPROTO_MPTCP"))
    if assigns:
        assert (noted(there), withheld(there)) == (0, None)
        with host_path(here, there):
            client(here, there.address)
        return
    assert (noted(there), withheld(there)) == (LISTENER_GROUP, "listener_group")
    with told(there), overlay(here, there):
        client(here, there.address)
    with overlay(there, here, because="listener_group"):  # its own calls, too
        server(here, 81)
        client(there, here.address, 81)


def test_ipv6(pair: Pair, assigns: bool) -> None:
    here, there = pair
    server(there, address="::")
    run(here, _SET.format(family="AF_INET6", protocol=0))
    assert (noted(here), withheld(here)) == (0 if assigns else IPV6_OPTIONS, None)
    with host_path(here, there) if assigns else overlay(here, there, because="ipv6_options"):
        client(here, THERE6)
    with host_path(here, there):
        client(here, there.address)


def test_ipv4_is_no_matter(pair: Pair) -> None:
    here, there = pair
    server(there)
    for container in pair:
        run(container, _SET.format(family="AF_INET", protocol=0))
        assert (noted(container), withheld(container)) == (0, None)
    with host_path(here, there):
        client(here, there.address)
