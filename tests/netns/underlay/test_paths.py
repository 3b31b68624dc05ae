"""Tests changes of the network between hosts: cables, routes, routers and their MTUs."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from driver.datapath.loading import bpf
from tests.netns.talk import Program, client, counted, host_path, overlay, run, server, started
from tests.support.run.wait import wait_until
from tests.support.world import netns
from tests.support.world.machines import Cluster, Container, Machine
from tests.support.world.netns import Netns

ROUTER = "198.18.77.100"
# All routers have one MAC: machines outlive the tests' routers, and keep a neighbour for 30 s.
ROUTER_MAC = "02:00:c6:12:4d:64"
NARROW = 1300


@pytest.fixture
def pair(machines: list[Machine]) -> tuple[Container, Container]:
    return machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")


def open_connection(here: Container, there: Container) -> Program:
    """Open a connection that sends five bytes and gets them back for each line that it is told."""
    server(there)
    return started(here, """
        c = connected(sys.argv[1], 80, timeout_s=30)
        ready()
        for line in sys.stdin:
            assert asked(c) == b"hello"
            print("asked", flush=True)
    """, there.address)


def ask(flow: Program) -> None:
    flow.say("x")
    assert flow.line() == "asked"


@pytest.mark.parametrize("side", ["host", "wire"])
def test_a_cable_that_is_out_for_a_while(
        cluster: Cluster, machines: list[Machine], pair: tuple[Container, Container], side: str
        ) -> None:
    here, there = pair
    flow = open_connection(here, there)
    ask(flow)
    where, name = (machines[0].netns, "eth0") if side == "host" else (cluster.wire, "p1")
    where.ip(f"link set {name} down")
    flow.say("x")
    assert "UP" not in where.ip(f"-br link show {name}").split()[1]
    where.ip(f"link set {name} up")
    if side == "host":  # the kernel drops the routes of a device that goes down
        machines[0].netns.ip("route replace default via 198.18.77.254")
    assert flow.line() == "asked"
    with host_path(here, there):
        client(here, there.address)
    with overlay(here, there):
        here.run("ping", "-c1", "-W5", there.address)


@contextmanager
def router(cluster: Cluster) -> Iterator[Netns]:
    """A machine on the wire that forwards packets."""
    with netns.made("router") as made:
        netns.join(cluster.wire, "pr", made, "eth0")
        cluster.wire.ip("link set pr master br0")
        made.ip(f"link set eth0 address {ROUTER_MAC}")
        made.ip(f"addr add {ROUTER}/24 dev eth0")
        made.sysctl("ipv4.ip_forward", 1)
        for interface in ("all", "eth0"):
            made.sysctl(f"ipv4.conf.{interface}.send_redirects", 0)
            made.sysctl(f"ipv4.conf.{interface}.rp_filter", 0)
        yield made


@contextmanager
def routed(machine: Machine, peer: Machine) -> Iterator[None]:
    machine.netns.ip(f"route add {peer.underlay}/32 via {ROUTER}")
    try:
        yield
    finally:
        machine.netns.ip(f"route del {peer.underlay}/32 via {ROUTER}")
        machine.forget_ways()


def forwarded(through: Netns) -> int:
    rows = [line.split() for line in through.run("cat", "/proc/net/snmp").stdout.splitlines()
            if line.startswith("Ip:")]
    return int(dict(zip(*rows, strict=True))["ForwDatagrams"])


def test_another_route_to_the_peer(
        cluster: Cluster, machines: list[Machine], pair: tuple[Container, Container]) -> None:
    """An open connection follows it by itself, within about a second."""
    here, there = pair
    first, second = machines
    flow = open_connection(here, there)
    with router(cluster) as through:
        ask(flow)
        assert forwarded(through) == 0
        with routed(first, second):

            def follows() -> bool:
                before = forwarded(through)
                ask(flow)
                return forwarded(through) > before

            wait_until(follows, 30, "the connection to take the new route")
            before = forwarded(through)
            with host_path(here, there):
                client(here, there.address)
            assert forwarded(through) > before
            with overlay(here, there):
                here.run("ping", "-c1", "-W5", there.address)
        wait_until(lambda: not follows(), 30, "the connection to take the old route again")


def link_local(machine: Machine) -> str:
    return machine.netns.ip("-o -6 addr show dev eth0 scope link").split()[3].split("/")[0]


def test_a_route_whose_next_hop_is_an_ipv6_address(
        machines: list[Machine], pair: tuple[Container, Container]) -> None:
    """Fabrics without IPv4 addresses on their links have such routes."""
    here, there = pair
    first, second = machines
    server(there)
    route = f"{second.underlay}/32 via inet6 {link_local(second)} dev eth0"
    first.netns.ip(f"route add {route}")
    first.forget_ways()
    try:
        with host_path(here, there):
            client(here, there.address)
        with overlay(here, there):
            here.run("ping", "-c1", "-W5", there.address)
    finally:
        first.netns.ip(f"route del {route}")
        first.forget_ways()


def test_connections_to_one_host_share_a_look_up(
        machines: list[Machine], pair: tuple[Container, Container]) -> None:
    here, there = pair
    server(there)

    def believed_until() -> dict[object, int]:
        ways = machines[0].loaded.table("next_hops")
        return {way: leaf.until_ns for way, leaf in bpf.entries(ways)}

    def shared() -> bool:
        before = believed_until()
        with host_path(here, there):
            client(here, there.address)
        return before != {} and believed_until() == before

    wait_until(shared, 30, "two connections within the same second")
    assert list(believed_until()) == [int.from_bytes(machines[1].underlay.packed, sys.byteorder)]


def test_the_path_narrows_under_an_open_connection(
        cluster: Cluster, machines: list[Machine], pair: tuple[Container, Container]) -> None:
    here, there = pair
    first, second = machines
    started(there, """
        def sink(c):
            while c.recv(1, socket.MSG_PEEK):
                c.sendall(b"%d" % len(exactly(c, 1_000_000)))
        serve(listen("0.0.0.0", 80), sink)
    """)
    flow = started(here, """
        IP_MTU = 14
        def send(c):
            c.sendall(bytes(1_000_000))
            assert exactly(c, 7) == b"1000000"
            return c.getsockopt(socket.IPPROTO_IP, IP_MTU)
        c = connected(sys.argv[1], 80, timeout_s=30)
        assert send(c) == 1500
        ready()
        sys.stdin.readline()
        print(send(c))
    """, there.address)
    with router(cluster) as through:
        through.ip(f"route add {second.underlay}/32 dev eth0 mtu lock {NARROW}")
        with routed(first, second):
            # Programs cache a route for a second; packets sent after that take the new one.
            changed_s = time.monotonic()
            wait_until(lambda: time.monotonic() > changed_s + 1.2, 5, "the old way to be forgotten")
            flow.say("go on")
            assert flow.rest() == str(NARROW)


def test_the_overlay_passes_a_narrow_path(
        cluster: Cluster, machines: list[Machine], pair: tuple[Container, Container]) -> None:
    """Outer packets may be fragmented, since nobody inside could act on a router's ICMP error."""
    here, there = pair
    first, second = machines
    with router(cluster) as through:
        through.ip(f"route add {second.underlay}/32 dev eth0 mtu lock {NARROW}")
        with routed(first, second), overlay(here, there):
            here.run("ping", "-c2", "-i0.1", "-W5", "-s", str(1450 - 28), there.address)
            here.run("ping", "-c2", "-i0.1", "-W5", "-s", "4000", there.address)


@pytest.fixture(scope="module")
def two_subnets() -> Iterator[tuple[Machine, Machine]]:
    netns.require_root()
    with ExitStack() as stack:
        cluster = Cluster(stack)
        yield cluster.add_machine(), cluster.add_machine(subnet=78)


@pytest.mark.parametrize("who", ["near", "far"])
def test_a_peer_behind_a_gateway(two_subnets: tuple[Machine, Machine], who: str) -> None:
    containers = [machine.container(f"10.32.0.{number}/16")
                  for number, machine in enumerate(two_subnets, 2)]
    here, there = containers if who == "near" else containers[::-1]
    try:
        server(there)
        with host_path(here, there):
            client(here, there.address)
        with overlay(here, there):
            here.run("ping", "-c2", "-i0.1", "-W5", there.address)
        with counted(here, there) as grown:
            assert run(here, """
                c = connected(sys.argv[1], 80)
                c.sendall(bytes(200_000))
                print(len(exactly(c, 200_000)))
            """, there.address) == "200000"
        assert not re.search("overlay|drop", " ".join(grown)), grown
    finally:
        for machine in two_subnets:
            machine.clear()
