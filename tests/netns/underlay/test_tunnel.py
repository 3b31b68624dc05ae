"""Tests an underlay that is itself a tunnel, as docs/security.md advises for encryption.

It is not encrypted here.  Both paths must work over such an Ethernet device, and no packet may
bypass it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from driver.errors import LinkError
from driver.link.underlay.device import find_underlay
from tests.netns.attacks.attack import quiet_server
from tests.netns.talk import host_path, overlay, run
from tests.support.world import machines as support
from tests.support.world import netns
from tests.support.world.machines import Cluster, Machine
from tests.support.world.netns import Netns

TUNNEL_PORT = 4790


def _join_by_tunnel(left: Netns, left_name: str, right: Netns, right_name: str) -> None:
    """Join two namespaces as netns.join() does, but by a tunnel over the real wire."""
    _JOIN(left, left_name, right, "wire0")
    right.ip(f"addr add 192.168.99.{left_name.removeprefix('p')}/24 dev wire0")
    right.ip(f"link add {right_name} mtu 1450 type vxlan id 1 group 239.9.9.9 dev wire0 "
             f"dstport {TUNNEL_PORT}")
    right.ip(f"link set {right_name} up")


_JOIN = netns.join


@pytest.fixture
def tunnelled(monkeypatch: pytest.MonkeyPatch) -> Callable[[ExitStack], list[Machine]]:
    netns.require_root()
    monkeypatch.setattr(netns, "join", _join_by_tunnel)
    monkeypatch.setattr(support, "MTU", 1450)

    def make(stack: ExitStack) -> list[Machine]:
        cluster = Cluster(stack)
        return [cluster.add_machine() for _ in range(2)]

    return make


def test_both_paths_inside_the_tunnel(
        tunnelled: Callable[[ExitStack], list[Machine]]) -> None:
    with ExitStack() as stack:
        here, there = (machine.container(f"10.32.0.{n}/16")
                       for n, machine in enumerate(tunnelled(stack), 2))
        wire = here.machine.cluster.wire.call(_capture)
        stack.callback(wire.close)
        quiet_server(there)
        with host_path(here, there):
            assert run(here, """
                c = connected(sys.argv[1], 80)
                data = os.urandom(1_000_000)
                threading.Thread(target=c.sendall, args=(data,)).start()
                print(exactly(c, len(data)) == data)
            """, there.address) == "True"
        with overlay(here, there):
            here.run("ping", "-c1", "-W2", "-s", "1300", there.address)
        assert _destinations(wire) == {TUNNEL_PORT}
        for machine in (here.machine, there.machine):
            machine.clear()


def _capture() -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    raw.setblocking(False)
    return raw


def _destinations(wire: socket.socket) -> set[int]:
    """Return the UDP ports of packets; 0 stands for any other IPv4 protocol but IGMP."""
    found = set()
    while True:
        try:
            frame = wire.recv(65535)
        except BlockingIOError:
            return found
        if frame[23] != 2:
            found.add(int.from_bytes(frame[36:38], "big") if frame[23] == 17 else 0)


def test_a_device_without_ethernet_frames_is_refused(
        make_netns: Callable[[str], Netns]) -> None:
    """WireGuard's is such a device; the programs expect Ethernet headers."""
    host = make_netns("host")
    host.ip("tuntap add tun0 mode tun")
    host.ip("addr add 192.0.2.1/24 dev tun0")
    host.ip("link set tun0 up")
    with pytest.raises(LinkError, match=r"tun0 carries no Ethernet frames.*VXLAN"):
        host.call(lambda: find_underlay("tun0"))
