"""Tests clients on other networks whose NAT would give them a port in the endpoint ports' range.

Answers to such a port would go to an endpoint.  Clients and server are sockets of this process, in
their namespaces, so no slim program sees them.
"""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count

import pytest

from driver.link.netlink.names import GUARD_TRANSLATED
from driver.link.underlay.guard import remove_guard
from driver.link.underlay.nat_ports import REMEMBERED_MAX
from tests.netns.attacks.attack import Tap, endpoint
from tests.netns.attacks.gateway import Bridge, bridge, kernel_guard
from tests.netns.talk import counted
from tests.support.world.machines import PORT_FIRST, PORT_LAST, Container, Machine
from tests.support.world.netns import Netns

OUTSIDE = "198.18.77.254"
# Each test has its own: connection tracking remembers earlier ones, and NAT would reuse its choice.
SERVICES, SUBNETS = count(8000), count(28)
CLIENTS = range(32768, 61000)
CLASHES = 150  # for each, 4,536 of the 64,512 ports that NAT may choose are endpoints'
ANSWER_S = 40.0  # a SYN is sent again after 1, 3, 7, 15 and 31 s


class World:
    """A host with a slim container, two containers on a bridge, and a server outside."""

    def __init__(self, stack: ExitStack, machines: list[Machine],
                 make_netns: Callable[[str], Netns]) -> None:
        self.machine, self.peer = machines[0], machines[1]
        self.host = self.machine.netns
        self.slims: Container = self.machine.container("10.32.0.2/16")
        self.bridge: Bridge = stack.enter_context(bridge(self.host, number=next(SUBNETS)))
        self.members = [make_netns(name) for name in "ab"]
        self.addresses = [self.bridge.join(member, last)
                          for last, member in enumerate(self.members, 2)]
        self._stack = stack
        self.service = next(SERVICES)
        self.server = self.serve(machines[0].cluster.wire, OUTSIDE)
        self.host.call(lambda: kernel_guard(self.machine).install([self.peer.underlay]))
        stack.callback(lambda: self.host.call(remove_guard))

    def serve(self, where: Netns, address: str) -> socket.socket:
        made = where.call(lambda: socket.create_server((address, self.service), backlog=4096))
        made.settimeout(ANSWER_S)
        return self._stack.enter_context(closing(made))

    def route(self, where: Netns, subnet: str) -> None:
        """During the test, let a host reach one of this host's networks without masquerading."""
        where.ip(f"route add {subnet} via {self.machine.underlay}")
        self._stack.callback(where.ip, f"route del {subnet}")

    def start(self, where: Netns, port: int, to: str = OUTSIDE) -> socket.socket:
        """Begin to connect from a port."""

        def begin() -> socket.socket:
            client = self._stack.enter_context(closing(socket.socket()))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("", port))
            client.setblocking(False)
            assert client.connect_ex((to, self.service)) == errno.EINPROGRESS
            return client

        return where.call(begin)

    def accepted(self, server: socket.socket | None = None) -> tuple[str, int]:
        """Accept a connection; return the caller's name as the server sees it."""
        connection, peer = (server or self.server).accept()
        self._stack.enter_context(closing(connection)).sendall(b"hello")
        return str(peer[0]), int(peer[1])

    def call(self, where: Netns, port: int) -> tuple[str, int]:
        """Connect, wait for the greeting, and return the client's name outside."""
        client = self.start(where, port)
        name = self.accepted()
        client.settimeout(ANSWER_S)
        assert client.recv(5) == b"hello"
        client.close()
        return name

    def remembered(self) -> str:
        """Return the guard's set of clients whose NAT it has corrected, as nft shows it."""
        return self.host.run("nft", "list", "set", "ip", "slim", GUARD_TRANSLATED).stdout


@pytest.fixture
def world(machines: list[Machine], make_netns: Callable[[str], Netns]) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, machines, make_netns)


@pytest.fixture(params=["iptables-nft", "iptables-legacy"])
def masqueraded(request: pytest.FixtureRequest, world: World) -> Iterator[World]:
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param}")
    with world.bridge.masqueraded(tool=request.param):
        yield world


def test_a_client_bound_to_an_endpoints_port(masqueraded: World) -> None:
    world, own = masqueraded, endpoint(masqueraded.slims).port
    tap = Tap(world.slims)
    with counted(world.slims) as total:
        for port in (own, PORT_LAST):
            address, seen = world.call(world.members[0], port)
            assert address == str(world.machine.underlay)
            assert seen in CLIENTS
    assert not total
    assert not tap.frames(), "an answer has come to the endpoint whose port it is"
    assert f"{world.addresses[0]} . {OUTSIDE} . {world.service}" in world.remembered()
    # nft must be able to show the whole table: it aborts on values of unknown type.
    shown = world.host.run("nft", "list", "table", "ip", "slim").stdout
    assert f"update @{GUARD_TRANSLATED} {{ ct original ip saddr . ip daddr . tcp dport }}" in shown


def test_what_is_known_needs_no_second_syn(masqueraded: World) -> None:
    """For a container and service that the guard knows, no SYN is dropped first."""
    world = masqueraded
    world.call(world.members[0], PORT_FIRST)
    world.host.run("nft", "flush", "chain", "ip", "slim", "postrouting")
    for port in (PORT_FIRST + 1, PORT_LAST):
        assert world.call(world.members[0], port)[1] in CLIENTS
    assert world.call(world.members[1], PORT_LAST)[1] == PORT_LAST  # unknown


def test_other_ports_are_kept_and_nothing_is_remembered(masqueraded: World) -> None:
    world = masqueraded
    for port in (5555, 700, PORT_FIRST - 1):
        assert world.call(world.members[0], port) == (str(world.machine.underlay), port)
    assert "elements" not in world.remembered()
    world.call(world.members[0], PORT_FIRST)
    # They are kept afterwards, too, if they are clients' or privileged ports.
    for port in (40000, 701):
        assert world.call(world.members[0], port) == (str(world.machine.underlay), port)


@pytest.mark.parametrize("second", ["another container", "the host"])
def test_two_clients_with_the_same_port(masqueraded: World, second: str) -> None:
    """Both call one service, so NAT changes the second one's port to any above 1023."""
    world = masqueraded
    other = world.members[1] if second == "another container" else world.host
    ports = range(40000, 40000 + CLASHES)
    started = [world.start(where, port) for where in (world.members[0], other) for port in ports]
    seen = [world.accepted() for _ in started]
    assert {address for address, _ in seen} == {str(world.machine.underlay)}
    assert len(set(seen)) == 2 * CLASHES
    assert not [port for _, port in seen if PORT_FIRST <= port <= PORT_LAST]
    for client in started:
        client.settimeout(ANSWER_S)
        assert client.recv(5) == b"hello"


def test_nat_that_takes_no_other_ports(world: World) -> None:
    """Other rules allow only endpoints' ports here; the guard still finds another one."""
    with world.bridge.masqueraded("--to-ports", f"{PORT_FIRST}-{PORT_LAST}", "--random"):
        address, port = world.call(world.members[0], 40000)
        assert (address, port) == (str(world.machine.underlay), 40000)


def test_to_a_peer_host(masqueraded: World) -> None:
    """The guard drops packets from endpoint ports to peers, so NAT must not choose one."""
    world = masqueraded
    server = world.serve(world.peer.netns, str(world.peer.underlay))
    client = world.start(world.members[0], PORT_LAST, str(world.peer.underlay))
    assert world.accepted(server)[1] in CLIENTS
    client.settimeout(ANSWER_S)
    assert client.recv(5) == b"hello"
    assert world.host.call(kernel_guard(world.machine).dropped) == 0


def test_who_is_routed_keeps_address_and_port(world: World, make_netns: Callable[[str], Netns]
                                              ) -> None:
    """It is not masqueraded (macvlan, --ip-masq=false, routed); others on this host are."""
    with bridge(world.host, "gw1", next(SUBNETS)) as routed, world.bridge.masqueraded():
        world.route(world.machine.cluster.wire, routed.subnet)
        member = make_netns("routed")
        own = routed.join(member, 2)
        world.call(world.members[0], PORT_FIRST)
        for port in (PORT_FIRST, PORT_LAST, 40000):
            assert world.call(member, port) == (own, port)
        assert own not in world.remembered()


def test_who_is_masqueraded_to_one_destination_only(world: World) -> None:
    """To another destination it keeps its address, whatever the guard knows of the first."""
    server = world.serve(world.peer.netns, str(world.peer.underlay))
    world.route(world.peer.netns, world.bridge.subnet)
    with world.bridge.masqueraded(to=OUTSIDE):
        assert world.call(world.members[0], PORT_FIRST)[1] in CLIENTS
        world.start(world.members[0], 40000, str(world.peer.underlay))
        assert world.accepted(server) == (world.addresses[0], 40000)


def test_a_program_of_the_host_keeps_the_port_that_it_asks_for(masqueraded: World) -> None:
    world = masqueraded
    assert world.call(world.host, PORT_LAST) == (str(world.machine.underlay), PORT_LAST)
    assert "elements" not in world.remembered()


def test_what_cannot_be_remembered_goes_out_as_it_is(masqueraded: World) -> None:
    """The list is full; the guard must not hold back a connection for ever."""
    world = masqueraded
    elements = ", ".join(f"10.{n >> 8}.{n & 255}.1 . {OUTSIDE} . 1" for n in range(REMEMBERED_MAX))
    subprocess.run(world.host.command("nft", "-f", "-"), text=True, check=True, timeout=60, input=(
        f"add element ip slim {GUARD_TRANSLATED} {{ {elements} }}\n"))
    # No endpoint has this port yet.
    assert world.call(world.members[0], PORT_LAST) == (str(world.machine.underlay), PORT_LAST)
