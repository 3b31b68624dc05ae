"""Tests attacks on hosts with an IPv6 underlay: strangers, hosts that lie, and containers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.netns.attacks.attack import Tap, frame, mac, send, vxlan
from tests.netns.overlay.test_ipv6_underlay import cluster6, machines6
from tests.netns.talk import counted
from tests.support.run.wait import wait_until
from tests.support.world.machines import VXLAN_PORT, Cluster, Container, Machine

STRANGER = "fd00:198:18:77::bad"
Pair = tuple[Container, Container]

__all__ = ["cluster6", "machines6"]


@pytest.fixture
def pair(machines6: list[Machine]) -> Iterator[Pair]:
    with ExitStack():
        yield (machines6[0].container("10.32.0.2/16", address6="fd00:32::2/64"),
               machines6[1].container("10.32.0.3/16", address6="fd00:32::3/64"))


def _over_ipv6(source: str, there: Container, inner: Packet, vni: int = 1,
               **fields: object) -> Packet:
    """An overlay packet in a frame for the other container's host."""
    machine = there.machine
    body = VXLAN(flags=8, vni=vni) / (inner if inner.haslayer(Ether) else frame(inner))
    return (Ether(dst=mac(machine.netns)) / IPv6(src=source, dst=str(machine.underlay))
            / UDP(sport=40000, dport=VXLAN_PORT, **fields) / body)


def _datagram(source: str, destination: str) -> Packet:
    return IP(src=source, dst=destination) / UDP(sport=7, dport=5000) / Raw(b"evil")


def _datagram6(source: str, destination: str) -> Packet:
    return IPv6(src=source, dst=destination) / UDP(sport=7, dport=5000) / Raw(b"evil")


def _last(cluster: Cluster, here: Container, there: Container) -> None:
    """Send a packet that may pass; once it has arrived, all before it would have, too."""
    before = there.machine.counters()["overlay_received"]
    inner = IP(src=here.address, dst=there.address) / ICMP(type=0) / Raw(b"last")
    send(cluster.wire, _over_ipv6(str(here.machine.underlay), there, inner), interface="br0")
    wait_until(lambda: there.machine.counters()["overlay_received"] > before, 30, "the last")


def test_packets_of_strangers_and_liars(machines6: list[Machine], cluster6: Cluster,
                                        pair: Pair) -> None:
    """Only matching (network, inner source, outer source) get in."""
    here, there = pair
    neighbour = machines6[1].container("10.32.0.5/16")  # on the attacked host
    elsewhere = machines6[0].container("10.32.0.6/16", vni=2)
    host, own = str(machines6[0].underlay), str(machines6[1].underlay)
    lies = [
        (STRANGER, _datagram(here.address, there.address), 1),
        (STRANGER, _datagram6(here.address6, there.address6), 1),
        (STRANGER, _datagram(here.address, "255.255.255.255"), 1),
        # One bit beside the host's address, in its first and its last half.
        ("fd00:198:18:76::1", _datagram(here.address, there.address), 1),
        ("fd00:198:18:77::3", _datagram(here.address, there.address), 1),
        (host, _datagram(neighbour.address, there.address), 1),
        (host, _datagram(there.address, there.address), 1),
        (host, _datagram6(there.address6, there.address6), 1),
        (host, _datagram6("fd00:32::99", there.address6), 1),
        (host, _datagram("0.0.0.1", there.address), 1),
        (host, _datagram(elsewhere.address, there.address), 1),
        (host, _datagram(here.address, there.address), 2),
        (host, _datagram(here.address, there.address), 0xffffff)]
    # The host's own address outside, from the wire: the kernel may drop it before.
    martian = _over_ipv6(own, there, _datagram(neighbour.address, there.address))
    tap = Tap(there)
    with counted(there) as total:
        send(cluster6.wire, [*(_over_ipv6(source, there, inner, vni)
                               for source, inner, vni in lies), martian], interface="br0")
        _last(cluster6, here, there)
    assert total["overlay_wrong_host"] - len(lies) in (0, 1)
    del total["overlay_wrong_host"]
    assert total == {"overlay_received": 1, "by_device": 1}
    assert [bytes(each[Raw]) for each in tap.frames() if each.haslayer(Raw)] == [b"last"]


def test_packets_without_a_checksum(cluster6: Cluster, pair: Pair) -> None:
    """The kernel refuses them: RFC 8200, 8.1."""
    here, there = pair
    host = str(here.machine.underlay)
    with counted(there) as total:
        send(cluster6.wire, [
            _over_ipv6(host, there, _datagram(here.address, there.address), chksum=check)
            for check in (0, 0x1234)], interface="br0")
        _last(cluster6, here, there)
    assert total == {"overlay_received": 1, "by_device": 1}


def test_packets_over_ipv4(cluster6: Cluster, pair: Pair) -> None:
    """The device takes them, but no host of ours has such an address.

    Nor is the number that stands for a host in the maps one that it has on the wire.
    """
    here, there = pair
    host = there.machine.netns
    number = here.machine.loaded.hosts.number(here.machine.underlay).to_bytes(4, "little")
    host.ip("addr add 198.18.77.2/24 dev eth0")
    host.sysctl("ipv4.conf.eth0.rp_filter", 0)
    host.sysctl("ipv4.conf.all.rp_filter", 0)
    try:
        inner = _datagram(here.address, there.address)
        with counted(there) as total:
            send(cluster6.wire, [Ether(dst=mac(host)) / vxlan(
                1, inner, source=source, destination="198.18.77.2")
                for source in ("198.18.77.1", ".".join(map(str, number)))], interface="br0")
            _last(cluster6, here, there)
        assert total.pop("tunnel_failed") in (1, 2)  # from 0.0.0.1 it may end before
        assert total == {"overlay_received": 1, "by_device": 1}
    finally:
        host.ip("addr del 198.18.77.2/24 dev eth0")


def test_a_container_that_forges_hosts_addresses(machines6: list[Machine], pair: Pair) -> None:
    """With CAP_NET_RAW, it sends as its host, as another one, and by the numbers of the maps."""
    here, there = pair
    neighbour = machines6[0].container("10.32.0.7/16", address6="fd00:32::7/64")
    own, other = (str(machine.underlay) for machine in machines6)
    inner = _datagram(neighbour.address, there.address)
    body = UDP(sport=40000, dport=VXLAN_PORT) / VXLAN(flags=8, vni=1) / frame(inner)
    numbers = [".".join(map(str, machines6[0].loaded.hosts.number(each.underlay).to_bytes(
        4, "little"))) for each in machines6]
    forged = [IPv6(src=source, dst=target) / body for source, target in (
        (own, other), (other, other), (own, there.address6), (other, there.address6),
        (neighbour.address6, there.address6), ("::ffff:10.32.0.7", there.address6))]
    forged += [IP(src=source, dst=target) / body for source in (*numbers, neighbour.address)
               for target in (there.address, numbers[1])]
    tap = Tap(there)
    with counted(here, there) as total:
        send(here, [Ether(src=mac(here.netns), dst="02:00:00:00:00:02", type=0x0800
                          if packet.version == 4 else 0x86dd) / packet for packet in forged])
        wait_until(lambda: sum(total_of(here).get(name, 0) for name in ("spoofed_source",))
                   >= len(forged), 30, "all to be dropped")
        here.run("ping", "-c1", "-W2", there.address)
    assert total.pop("spoofed_source") == len(forged)
    assert total == {"overlay_sent": 2, "overlay_received": 2, "by_device": 4}
    assert not [each for each in tap.frames() if each.haslayer(Raw) and b"evil" in bytes(each[Raw])]


def total_of(container: Container) -> dict[str, int]:
    return container.machine.counters()
