"""Tests containers kept off the host path by choice, or with a network stack in user space."""

from __future__ import annotations

import pytest

from tests.netns.cluster.etcd_world import LONG_S
from tests.netns.kept_off.rules_world import Hosts, hosts
from tests.netns.talk import run
from tests.support.run.wait import wait_until
from tests.support.world.netns import made
from tests.support.world.served import attach, create_network, delete_network, detach

__all__ = ["hosts"]
pytestmark = pytest.mark.timeout(600)

OTHER, OTHER_POOL = "9d20" * 16, "10.51.0.0/16"
# A stack over AF_PACKET, which answers SYNs to port 80 and echoes.
STACK = """
    own = socket.inet_aton(sys.argv[1])
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    wire.bind(("eth0", 0))
    ready()
    def send(frame, ip, sport, dport, seq, ack, flags, data):
        tcp = struct.pack("!HHIIBBHHH", dport, sport, seq, ack, 0x50, flags, 8192, 0, 0) + data
        pseudo = own + ip[12:16] + struct.pack("!BBH", 0, 6, len(tcp))
        tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + own + ip[12:16]
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        wire.send(frame[6:12] + frame[:6] + frame[12:14] + head + tcp)
    while True:
        frame, (_, _, kind, *_) = wire.recvfrom(65536)
        ip = frame[14:]
        if kind == 4 or ip[9] != 6 or ip[16:20] != own:  # PACKET_OUTGOING
            continue
        ip = ip[:struct.unpack("!H", ip[2:4])[0]]
        tcp = ip[(ip[0] & 15) * 4:]
        sport, dport, seq, ack, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
        data = tcp[(offset >> 4) * 4:]
        if flags & 2:
            send(frame, ip, sport, dport, 1000, seq + 1, 0x12, b"")
        elif data:
            send(frame, ip, sport, dport, ack, seq + len(data), 0x18, data)
"""


def test_a_stack_in_user_space(hosts: Hosts) -> None:
    """As gVisor does, it takes the addresses from the kernel's interface at its start."""
    with hosts.box(hosts.there, serve="") as box:
        hosts.wait_on(box)
        box.netns.ip(f"addr del {box.address} dev eth0")
        hosts.wait_off(box, "user_stack")
        box.netns.ip("route add 10.50.0.0/16 dev eth0")
        stack = hosts.world.program(box, STACK, box.ip)
        assert stack.line() == "ready"
        with hosts.counted() as grown:
            assert hosts.call(hosts.near, box) == "hello"
        assert (grown["connected"], grown["overlay_only"]) == (0, 1), grown
        stack.end()
        box.netns.ip("route del 10.50.0.0/16 dev eth0")
        box.netns.ip(f"addr add {box.address} dev eth0")
        hosts.wait_on(box)


def test_an_endpoint_that_is_off(hosts: Hosts) -> None:
    with hosts.box(hosts.there, host_path="off") as box:
        hosts.wait_off(box, "switched_off")
        hosts.assert_overlay(hosts.near, box, "overlay_only")
        hosts.assert_overlay(box, hosts.near, "switched_off")
        hosts.world.restart(hosts.there)
        hosts.wait_off(box, "switched_off")
        hosts.assert_overlay(box, hosts.near, "switched_off")


def test_a_network_that_is_off_and_one_that_is_not(hosts: Hosts) -> None:
    """One container is on both; each network keeps its setting."""
    for host in hosts.world.hosts:
        create_network(host, OTHER, OTHER_POOL, host_path="off")
    endpoint, far = "ab" * 32, "cd" * 32
    with hosts.box(hosts.there) as box, made("far") as sandbox:
        # For its second network, since the first interface already has the name eth0.
        box.netns.ip("link set eth0 down")
        box.netns.ip("link set eth0 name one")
        box.netns.ip("link set one up")
        both = attach(hosts.there, box.netns, network=OTHER, endpoint=endpoint, pool=OTHER_POOL)
        alone = attach(hosts.here, sandbox, network=OTHER, endpoint=far, pool=OTHER_POOL)
        wait_until(hosts.world.converged, LONG_S, "both hosts know them")
        wait_until(lambda: "switched_off 1" in hosts.here.status()["host path"], LONG_S,
                   "the container that is off altogether")
        hosts.wait_on(box)
        hosts.assert_host_path(hosts.near, box)
        hosts.assert_host_path(box, hosts.near)
        there = type(box)(hosts.here, sandbox, far, alone)
        server = hosts.world.program(there, 'serve(listen("0.0.0.0", 80))')
        assert server.line() == "ready"
        with hosts.counted() as grown:
            assert hosts.call(box, there) == "hello"
            assert run(hosts.world.container(there), """
                print(asked(connected(sys.argv[1], 80, timeout_s=20)).decode())
                """, both.partition("/")[0]) == "hello"
        assert (grown["connected"], grown["switched_off"]) == (0, 1), grown
        server.end()
        detach(hosts.here, alone, network=OTHER, endpoint=far, pool=OTHER_POOL)
        detach(hosts.there, both, network=OTHER, endpoint=endpoint, pool=OTHER_POOL)
    for host in hosts.world.hosts:
        delete_network(host, OTHER, OTHER_POOL, "10.51.0.1")


@pytest.mark.parametrize("chosen", [{"host_path": "never"}, {"host_paths": "off"}])
def test_a_wrong_choice_is_refused_with_what_is_allowed(
        hosts: Hosts, chosen: dict[str, str]) -> None:
    with made("box") as sandbox:
        wanted = "off, on, auto" if "host_path" in chosen else "known: slim.host_path"
        with pytest.raises(AssertionError, match=wanted):
            attach(hosts.here, sandbox, endpoint="ef" * 32, **chosen)


