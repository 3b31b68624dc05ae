"""Tests IPv6 clients on other networks of a host whose underlay is IPv6, masqueraded.

NAT may give them neither a port of the endpoint ports' range, nor a way to others' endpoint ports.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest

from driver.link.netlink.names import GUARD_TRANSLATED
from driver.link.underlay.guard import Guarded, KernelGuard, remove_guard
from tests.netns.overlay.test_ipv6_underlay import cluster6, machines6
from tests.netns.talk import counted, server
from tests.support.run.wait import wait_until
from tests.support.world.machines import PORT_FIRST, PORT_LAST, VXLAN_PORT, Container, Machine
from tests.support.world.netns import Netns, join

__all__ = ["cluster6", "machines6"]

OUTSIDE = "fd00:198:18:77::254"
CLIENTS = (32768, 60999)
MASQUERADE = """table ip6 nat { chain post { type nat hook postrouting priority 100;
    ip6 saddr fd00:99::/64 masquerade; }
}"""


@dataclass
class World:
    """A host with a slim container, a member of another network, and a server outside."""

    machine: Machine
    guard: KernelGuard
    member: Netns
    there: Container
    stack: ExitStack

    def call(self, port: int, to: str, to_port: int, timeout_s: float = 40) -> socket.socket:
        """Connect from the other network."""
        def connect() -> socket.socket:
            client = self.stack.enter_context(closing(socket.socket(socket.AF_INET6)))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.settimeout(timeout_s)  # a SYN that is dropped comes again after a second
            client.bind(("", port))
            client.connect((to, to_port))
            return client

        return self.member.call(connect)

    def dropped(self) -> int:
        found = self.machine.netns.call(self.guard.dropped)
        assert found is not None
        return found


@pytest.fixture
def world(machines6: list[Machine], make_netns: Callable[[str], Netns]) -> Iterator[World]:
    machine, peer = machines6
    member = make_netns("member")
    host = machine.netns
    guard = KernelGuard(Guarded(machine.underlay, host.ifindex("eth0"), VXLAN_PORT,
                                (PORT_FIRST, PORT_LAST), CLIENTS))
    join(host, "other", member, "eth0")
    with ExitStack() as stack:
        stack.callback(host.ip, "link del other")
        host.ip("addr add fd00:99::1/64 dev other nodad")
        member.ip("addr add fd00:99::2/64 dev eth0 nodad")
        member.ip("route add default via fd00:99::1")
        before = host.run("sysctl", "-n", "net.ipv6.conf.all.forwarding").stdout.strip()
        stack.callback(host.sysctl, "ipv6.conf.all.forwarding", before)
        host.sysctl("ipv6.conf.all.forwarding", 1)
        host.run("nft", MASQUERADE)
        stack.callback(host.run, "nft", "delete table ip6 nat")
        machine.container("10.32.0.2/16", address6="fd00:32::2/64")
        there = peer.container("10.32.0.3/16", address6="fd00:32::3/64")
        server(there, address="::")
        host.call(lambda: guard.install([peer.underlay]))
        stack.callback(lambda: host.call(remove_guard))
        yield World(machine, guard, member, there, stack)


def _serve(world: World, port: int) -> socket.socket:
    made = world.machine.cluster.wire.call(lambda: socket.create_server(
        (OUTSIDE, port), family=socket.AF_INET6))
    made.settimeout(40)
    return world.stack.enter_context(closing(made))


@pytest.mark.parametrize("port", [PORT_FIRST, PORT_LAST])
def test_a_client_bound_to_an_endpoints_port(world: World, port: int) -> None:
    """It leaves with another one, and the next time at once; others keep theirs."""
    outside = _serve(world, 8100 + port % 2)
    for own, keeps in ((port, False), (port, False), (40000, True)):
        client = world.call(own, *outside.getsockname()[:2])
        accepted, peer = outside.accept()
        accepted.sendall(b"hello")
        assert client.recv(5) == b"hello"
        assert peer[0] == str(world.machine.underlay)
        assert (peer[1] == own) is keeps
        assert not PORT_FIRST <= peer[1] <= PORT_LAST
        accepted.close()
        client.close()
    kept = world.machine.netns.run("nft", "list", "set", "ip6", "slim", GUARD_TRANSLATED).stdout
    assert f"fd00:99::2 . {OUTSIDE} . {8100 + port % 2}" in kept


@pytest.mark.parametrize("from_port", [40000, 61000])
def test_no_way_to_endpoint_ports_of_peers(world: World, from_port: int) -> None:
    """In this host's name: nothing gets out, whatever its port."""
    endpoint = world.there.endpoints[0][0]
    before = world.dropped()
    with counted(world.there) as total:
        with pytest.raises(TimeoutError):
            world.call(from_port, str(endpoint.underlay), endpoint.port, timeout_s=0.3)
        wait_until(lambda: world.dropped() > before, 10, "the guard to drop it")
    assert total == {}
