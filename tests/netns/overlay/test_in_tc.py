"""Tests the overlay path's headers, which are written and stripped in tc (kernel/tunnel.c).

What takes the VXLAN device all the same, and that nobody can tell the difference on the wire.
tests/kernel/packets/test_tunnel_packets.py has what may be stripped, packet by packet.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.kernel.packets.world import FOREVER
from tests.netns.attacks.attack import Tap, endpoint, frame, mac, send, vxlan
from tests.netns.talk import UDP_CLIENT, UDP_SERVER, counted, overlay, run, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import MTU, VXLAN_PORT, Cluster, Container, Machine

Pair = tuple[Container, Container]
V6 = {"here": "fd00:32::2", "there": "fd00:32::3"}


def know_way(machine: Machine, peer: Machine, mtu: int = MTU) -> None:
    """Have the way to a host known for good; mtu 0: the VXLAN device has to find it."""
    ways = machine.loaded.table("next_hops")
    key = ways.Key(int.from_bytes(peer.underlay.packed, "little"))
    ways[key] = ways.Leaf(until_ns=FOREVER, addr_be=key.value, mtu=mtu)


def forget_streams(machine: Machine) -> None:
    """Have no flow take the device any longer for what has come before."""
    streams = machine.loaded.table("streams")
    for slot in streams:
        if streams[slot].value:
            streams[slot] = streams.Leaf(0)


@pytest.fixture
def pair(machines: list[Machine]) -> Iterator[Pair]:
    """Two containers on two hosts that know their ways to each other."""
    made = []
    for number, machine in enumerate(machines, 2):
        made.append(machine.container())
        machine.connect(made[-1], f"10.32.0.{number}/16", address6=f"fd00:32::{number}/64")
        know_way(machine, machines[number == 2])
        forget_streams(machine)
    yield made[0], made[1]
    for machine in machines:
        machine.forget_ways()
        forget_streams(machine)


def through_device(*containers: Container) -> int:
    """Return how many packets the VXLAN devices of their hosts have taken."""
    machines = {id(each.machine): each.machine for each in containers}.values()
    shown = [json.loads(machine.netns.ip("-s -j link show slim-vxlan"))[0]["stats64"]
             for machine in machines]
    return sum(stats[way]["packets"] for stats in shown for way in ("rx", "tx"))


class Wire:
    """Keeps the outer packets that a host receives."""

    def __init__(self, machine: Machine) -> None:
        def listen() -> socket.socket:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            raw.bind(("eth0", 3))  # ETH_P_ALL: before the programs
            raw.settimeout(10)
            return raw

        self._raw = machine.netns.call(listen)
        machine.stack.callback(self._raw.close)

    def next(self) -> bytes:
        """Wait for the next packet of the tunnel."""
        while True:
            data, (_, _, kind, *_) = self._raw.recvfrom(65535)
            if kind != socket.PACKET_OUTGOING and data[23] == socket.IPPROTO_UDP and (
                    int.from_bytes(data[36:38], "big") == VXLAN_PORT):
                return data


def _frames() -> dict[str, Packet]:
    ip, ip6 = IP(src="10.32.0.2", dst="10.32.0.3"), IPv6(src=V6["here"], dst=V6["there"])
    inner = UDP(sport=7, dport=5000) / Raw(b"data")
    return {"UDP": ip / inner, "ICMP": ip / ICMP() / Raw(b"echo"),
            "TCP": ip / TCP(sport=1, dport=2),
            "a fragment": IP(src=ip.src, dst=ip.dst, frag=100) / Raw(b"part"),
            "DF": IP(src=ip.src, dst=ip.dst, flags="DF", ttl=7) / inner,
            "nothing above IP": IP(src=ip.src, dst=ip.dst, proto=200),
            "as long as the wire takes": ip / UDP(sport=7, dport=5000) / Raw(bytes(1422)),
            "IPv6": ip6 / inner, "ICMPv6": IPv6(src=ip6.src, dst=ip6.dst, nh=59),
            **{f"TOS {tos}": IP(src=ip.src, dst=ip.dst, tos=tos) / inner
               for tos in (1, 2, 3, 0xb8, 0xff)},
            **{f"traffic class {tos}": IPv6(src=ip6.src, dst=ip6.dst, tc=tos, fl=5) / inner
               for tos in (1, 2, 3, 0xff)}}


def _without_id(packet: bytes) -> bytes:
    """Leave the outer IP header's identification out, and its checksum, which must be right."""
    header = IP(packet[14:34])
    given = header.chksum
    del header.chksum
    assert IP(bytes(header)).chksum == given
    return packet[:18] + bytes(2) + packet[20:24] + bytes(2) + packet[26:]


@pytest.mark.parametrize("inner", _frames().values(), ids=_frames().keys())
def test_on_the_wire_it_is_what_the_device_sends(pair: Pair, inner: Packet) -> None:
    here, there = pair
    wire = Wire(there.machine)
    sent = []
    for mtu, by_device in ((MTU, 0), (0, 1)):
        know_way(here.machine, there.machine, mtu)
        with here.machine.counting() as grown:
            send(here, frame(inner))
            sent.append(wire.next())
        assert grown.get("by_device", 0) == by_device
        assert grown["overlay_sent"] == 1
    assert _without_id(sent[0]) == _without_id(sent[1])


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
@pytest.mark.parametrize("size", [0, 1, 1400])
def test_datagrams_are_spared_the_device(pair: Pair, family: str, size: int) -> None:
    here, there = pair
    address = there.address if family == "AF_INET" else V6["there"]
    started(there, UDP_SERVER, family)
    before = through_device(here, there)
    with overlay(here, there) as total:
        assert run(here, UDP_CLIENT, family, address, size).split()[1] == address
    assert total == {"overlay_sent": 2, "overlay_received": 2}
    assert through_device(here, there) == before


def test_pings_and_small_connections_are_spared_it(pair: Pair) -> None:
    here, there = pair
    started(there, 'serve(listen("0.0.0.0", 80))')
    with overlay(here, there) as total:
        here.run("ping", "-c2", "-i0.05", "-W2", there.address)
        here.run("ping", "-6", "-c2", "-i0.05", "-W2", V6["there"])
        run(here, "assert asked(connected(sys.argv[1], 80, bind=(sys.argv[2], 0))) == b'hello'",
            there.address, here.address)
    assert "by_device" not in total


def test_a_stream_takes_the_device_and_arrives_in_order(pair: Pair) -> None:
    """No small packet overtakes a large one, which waits in the device's queue.

    On one processor: the device has a queue for each, and keeps no order between them.
    """
    here, there = pair
    one = "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    started(there, f'{one}; serve(listen("0.0.0.0", 80))')
    with counted(here, there) as total:
        assert run(here, f"""
            {one}
            c = connected(sys.argv[1], 80, bind=(sys.argv[2], 0))
            data = os.urandom(3_000_000)
            threading.Thread(target=c.sendall, args=(data,)).start()
            assert exactly(c, len(data)) == data
            for size in (100, 5000, 1) * 200:  # what ends with a small packet
                c.sendall(data[:size])
                assert exactly(c, size) == data[:size]
            print(tcp_count("TCPOFOQueue"))
        """, there.address, here.address) == "0"
    assert run(there, "print(tcp_count('TCPOFOQueue'))") == "0"
    assert total["by_device"] > 0


def test_who_has_sent_a_stream_is_spared_the_device_again(pair: Pair) -> None:
    here, there = pair
    started(there, 'serve(listen("0.0.0.0", 80))')
    client = started(here, """
        c = connected(sys.argv[1], 80, bind=(sys.argv[2], 0))
        ready()
        for line in sys.stdin:
            data = bytes(int(line))
            threading.Thread(target=c.sendall, args=(data,)).start()
            print(exactly(c, len(data)) == data, flush=True)
    """, there.address, here.address)
    for size, by_device in ((5, False), (100_000, True), (5, True)):
        with counted(here, there) as total:
            assert client.ask(str(size)) == "True"
        assert ("by_device" in total) == by_device, (size, total)
    for each in pair:
        forget_streams(each.machine)  # as a second later
    with counted(here, there) as total:
        assert client.ask("5") == "True"
    assert "by_device" not in total


def test_datagrams_that_the_device_has_to_cut(pair: Pair) -> None:
    """UDP_SEGMENT: the kernel cuts one large datagram into many, as late as it can."""
    here, there = pair
    server = started(there, """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("", 5000))
        s.settimeout(5)
        ready()
        print([s.recv(65535) for _ in range(12)] == [bytes([n]) * 1200 for n in range(12)])
    """)
    with counted(here, there) as total:
        run(here, """
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.setsockopt(socket.IPPROTO_UDP, 103, 1200)  # UDP_SEGMENT
            s.sendto(b"".join(bytes([n]) * 1200 for n in range(12)), (sys.argv[1], 5000))
        """, there.address)
        assert server.rest() == "True"
    assert total["by_device"] >= 1
    assert not set(total) - {"overlay_sent", "overlay_received", "by_device"}


def test_what_is_too_long_for_the_wire_is_cut(pair: Pair) -> None:
    """A container may send as much as its interface takes: the outer packet is fragmented then."""
    here, there = pair
    here.netns.ip("route change 10.32.0.0/16 dev eth0 proto kernel scope link "
                  f"src {here.address} mtu 1500")
    arrived = 0
    for size, by_device in ((1450, 0), (1451, 2), (1500, 2)):  # at both ends
        with counted(here, there) as total:
            run(here, """
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                s.setsockopt(socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
                s.sendto(bytes(int(sys.argv[2]) - 28), (sys.argv[1], 5000))
            """, there.address, size)
            arrived += 1
            wait_until(lambda: refused(there) == arrived, 10, "the packet")  # noqa: B023
        assert total.get("by_device", 0) == by_device, (size, total)


def test_the_way_is_narrower_than_the_wire(pair: Pair) -> None:
    """The MTU of a packet that would be forwarded there counts, once it is looked up."""
    here, there = pair
    peer = there.machine.underlay
    here.machine.netns.ip(f"route add {peer} dev eth0 mtu lock 1300")
    try:
        here.machine.forget_ways()
        with counted(here, there) as total:
            here.run("ping", "-c1", "-W2", "-s", "1300", there.address)
    finally:
        here.machine.netns.ip(f"route del {peer} dev eth0")
    assert total["by_device"] >= 2


@pytest.mark.parametrize("mark", ["not heard of", "known"])
def test_who_has_the_address_is_asked_by_the_device(pair: Pair, mark: str) -> None:
    """The first packet to a host takes the device, while the neighbour is not known."""
    here, there = pair
    if mark == "not heard of":
        here.machine.netns.ip(f"neigh flush to {there.machine.underlay}")
    else:
        here.run("ping", "-c1", "-W2", there.address)
    here.machine.forget_ways()
    with here.machine.counting() as grown:
        here.run("ping", "-c1", "-W2", there.address)
    assert grown.get("by_device", 0) == (mark == "not heard of")


def test_a_wrong_checksum_inside_is_the_containers_to_find(pair: Pair, cluster: Cluster) -> None:
    here, there = pair
    server = started(there, """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("", 5000))
        s.settimeout(5)
        ready()
        print(s.recv(99).decode())
    """)
    source, own = str(here.machine.underlay), str(there.machine.underlay)
    datagrams = [IP(src=here.address, dst=there.address) / UDP(sport=7, dport=5000, **check)
                 / Raw(data) for check, data in (({"chksum": 5}, b"wrong"), ({}, b"right"))]
    with counted(there) as total:
        send(cluster.wire, [_to(there.machine, vxlan(1, each, source=source, destination=own))
                            for each in datagrams], interface="br0")
        assert server.rest() == "right"
    assert total == {"overlay_received": 2}


def test_congestion_on_the_way_is_told(pair: Pair, cluster: Cluster) -> None:
    """A router marks the outer header; the device copies the mark to the inner one."""
    here, there = pair
    tap = Tap(there)
    inner = IP(src=here.address, dst=there.address, tos=2) / UDP(sport=7, dport=5000)
    for tos in (2, 3):
        outer = vxlan(1, inner, source=str(here.machine.underlay),
                      destination=str(there.machine.underlay))
        outer[IP].tos = tos
        send(cluster.wire, _to(there.machine, outer), interface="br0")
    assert [seen[IP].tos for seen in tap.wait_for(2)] == [2, 3]


def _to(machine: Machine, packet: Packet) -> Packet:
    return Ether(src="02:00:00:00:00:01", dst=mac(machine.netns)) / packet


def refused(container: Container) -> int:
    """Return how many datagrams the container has refused: nobody listens."""
    lines = [line.split() for line in container.run("cat", "/proc/net/snmp").stdout.splitlines()
             if line.startswith("Udp:")]
    return int(dict(zip(*lines, strict=True))["NoPorts"])


def test_the_frame_inside_is_the_senders(pair: Pair) -> None:
    """A container sees the MAC addresses that it would see behind the device."""
    here, there = pair
    tap = Tap(there)
    send(here, frame(IP(src=here.address, dst=there.address) / UDP(dport=5000)))
    know_way(here.machine, there.machine, 0)
    send(here, frame(IP(src=here.address, dst=there.address) / UDP(dport=5000)))
    first, second = (seen[Ether] for seen in tap.wait_for(2))
    assert (first.src, first.dst, first.type) == (second.src, second.dst, second.type)
    assert first.dst == endpoint(there).mac.hex(":")
