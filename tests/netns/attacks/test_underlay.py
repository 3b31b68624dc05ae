"""Tests attacks by a stranger on the underlay, and by a registered host that lies.

Hosts' addresses can be forged there.  Containers' connections must resist it as well as TCP itself
does.
"""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from driver.datapath.loading import bpf
from tests.netns.attacks.attack import (
    Tap,
    Victim,
    endpoint,
    frame,
    mac,
    segment,
    send,
    syn_option,
    victim,
    vxlan,
)
from tests.netns.talk import client, counted, host_path, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import Cluster, Container, Machine

STRANGER = "198.18.77.200"


@pytest.fixture
def live(machines: list[Machine]) -> Victim:
    return victim(machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16"))


def _wire(cluster: Cluster, live: Victim, packets: list[Packet]) -> None:
    """Send packets to the server's host by the wire."""
    target = mac(live.there.machine.netns)
    send(cluster.wire, [p if isinstance(p, Ether) else frame(p, destination=target)
                        for p in packets], interface="br0")


def _datagram(source: str, destination: str) -> Packet:
    return IP(src=source, dst=destination) / UDP(sport=7, dport=5000) / Raw(b"evil")


def test_overlay_packets_of_strangers_and_liars(
        machines: list[Machine], cluster: Cluster, live: Victim) -> None:
    """Only matching (network, inner source, outer source) get in."""
    neighbour = machines[1].container("10.32.0.5/16")  # on the attacked host
    elsewhere = machines[0].container("10.32.0.6/16", vni=2)
    there, here = live.there.address, live.here.address
    host, own = str(machines[0].underlay), str(machines[1].underlay)
    lies = [vxlan(1, _datagram(here, there), source=STRANGER, destination=own),
            vxlan(1, _datagram(neighbour.address, there), source=host, destination=own),
            vxlan(1, _datagram(there, there), source=host, destination=own),
            vxlan(1, _datagram(host, there), source=host, destination=own),
            vxlan(1, _datagram("0.0.0.0", there), source=host, destination=own),
            vxlan(1, _datagram(elsewhere.address, there), source=host, destination=own),
            vxlan(2, _datagram(here, there), source=host, destination=own),
            vxlan(0, _datagram(here, there), source=host, destination=own),
            vxlan(0xFFFFFF, _datagram(here, there), source=host, destination=own),
            vxlan(1, _datagram(STRANGER, "255.255.255.255"), source=host, destination=own),
            vxlan(1, _datagram("10.32.0.99", "224.0.0.1"), source=STRANGER, destination=own)]
    stray = _datagram(elsewhere.address, there)  # a true packet, of a network that this host lacks
    into_another = [vxlan(2, frame(stray, destination=target), source=host, destination=own)
                    for target in ("02:00:00:00:00:02", "ff:ff:ff:ff:ff:ff")]
    tap = Tap(live.there)
    with counted(live.there) as total:
        _wire(cluster, live, [*lies, *into_another])
        _last(cluster, live)
    assert total == {"overlay_wrong_host": len(lies), "overlay_no_endpoint": 1, "flooded": 1,
                     "overlay_received": 1}
    assert [bytes(f[Raw]) for f in tap.frames() if f.haslayer(Raw)] == [b"last"]
    assert live.lives()


def _last(cluster: Cluster, live: Victim) -> None:
    """Send a packet that may pass; once it has arrived, all before it would have, too."""
    before = live.there.machine.counters()["overlay_received"]
    inner = IP(src=live.here.address, dst=live.there.address) / ICMP(type=0) / Raw(b"last")
    _wire(cluster, live, [vxlan(1, inner, source=str(endpoint(live.here).underlay),
                                destination=str(endpoint(live.there).underlay))])
    wait_until(lambda: live.there.machine.counters()["overlay_received"] > before, 30, "the last")


def test_frames_inside_that_are_no_endpoints(cluster: Cluster, live: Victim) -> None:
    """They are of the right host and network, but tagged, ARP, cut short, or of unknown kind."""
    host, own = (str(endpoint(c).underlay) for c in (live.here, live.there))
    good = _datagram(live.here.address, live.there.address)
    outer = Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff")
    inner = [outer / Dot1Q(vlan=5) / good, outer / ARP(psrc=live.here.address),
             outer / Raw(bytes(60)), Ether(type=0x0800) / Raw(b"E" + bytes(8)),
             Ether(type=0x86DD) / Raw(b"`" + bytes(8))]
    with counted(live.there) as total:
        _wire(cluster, live, [vxlan(1, one, source=host, destination=own) for one in inner])
        _last(cluster, live)
    total.pop("malformed", None)  # recent kernels' VXLAN devices drop these two themselves
    assert total == {"vlan_tag": 1, "not_ip": 2, "overlay_received": 1}
    assert live.lives()


def test_overlay_packets_over_ipv6(cluster: Cluster, live: Victim) -> None:
    """The kernel's device takes them, but no host of ours has such an address."""
    host = live.there.machine.netns
    host.ip("addr add fd00:77::2/64 dev eth0 nodad")
    try:
        packet = (Ether(dst=mac(host)) / IPv6(src="fd00:77::1", dst="fd00:77::2")
                  / UDP(sport=40000, dport=14789)
                  / vxlan(1, _datagram(live.here.address, live.there.address)))
        with counted(live.there) as total:
            send(cluster.wire, packet, interface="br0")
            _last(cluster, live)
        assert total == {"tunnel_failed": 1, "overlay_received": 1}
    finally:
        host.ip("addr del fd00:77::2/64 dev eth0")


def test_syns_in_pieces_and_with_options(cluster: Cluster, live: Victim) -> None:
    """They go to the host's own stack, where nobody listens."""
    to, host = endpoint(live.there), str(endpoint(live.here).underlay)
    syn = segment(host, 41000, str(to.underlay), to.port,
                  options=syn_option(80, endpoint(live.here).port))
    with_options = syn.copy()
    with_options[IP].options = [IPOption(b"\x01\x01\x01\x00")]
    short = syn.copy()
    short[TCP].dataofs = 6
    tap = Tap(live.there)
    with counted(live.there) as total:
        _wire(cluster, live, [*fragment(syn, fragsize=8), with_options, short])
        _last(cluster, live)
    assert total == {"syn_no_option": 1, "overlay_received": 1}
    assert not [f for f in tap.frames() if f.haslayer(TCP) and f[TCP].sport == 41000]
    assert live.lives()


def test_tagged_frames_are_another_networks(cluster: Cluster, live: Victim) -> None:
    """On a trunk, a VLAN that this host is not in must not reach containers."""
    to, host = endpoint(live.there), str(endpoint(live.here).underlay)
    syn = segment(host, 41000, str(to.underlay), to.port,
                  options=syn_option(80, endpoint(live.here).port))
    data = segment(host, live.port, str(to.underlay), to.port, "PA", b"evil", seq=1, ack=1)
    tagged = Ether(dst=mac(live.there.machine.netns)) / Dot1Q(vlan=5)
    pending = live.there.machine.loaded.table("pending")
    before, tap = len(list(bpf.entries(pending))), Tap(live.there)
    _wire(cluster, live, [tagged / syn, tagged / data])
    _last(cluster, live)
    assert len(list(bpf.entries(pending))) == before
    assert not [f for f in tap.frames() if f.haslayer(TCP) and f[TCP].flags != "A"]
    assert live.lives()


@pytest.mark.parametrize("flags", ["R", "RA", "S", "FA", "PA"])
def test_blind_segments_with_the_right_names(cluster: Cluster, live: Victim, flags: str) -> None:
    """A stranger forges the peer's address; Linux protects any connection from that (RFC 5961)."""
    to, host = endpoint(live.there), str(endpoint(live.here).underlay)
    packets = [segment(host, live.port, str(to.underlay), to.port, flags, b"evil" * (flags == "PA"),
                       seq=sequence, ack=sequence, options=syn_option(80, endpoint(live.here).port))
               for sequence in range(0, 1 << 32, 1 << 28)]
    _wire(cluster, live, packets)
    _last(cluster, live)
    assert live.lives()
    with host_path(live.here, live.there):
        client(live.here, live.there.address)


@pytest.mark.parametrize("kind", [(3, 4), (3, 1), (3, 3), (3, 13), (11, 0), (12, 0), (5, 1),
                                  (4, 0)])
def test_icmp_errors_of_a_stranger(machines: list[Machine], cluster: Cluster, live: Victim,
                                   kind: tuple[int, int]) -> None:
    """Path MTU poisoning and the like work only with a sequence number in flight.

    The host's own connections have the same protection (tcp_v4_err).
    """
    own, peer = endpoint(live.there), endpoint(live.here)
    about = segment(str(own.underlay), own.port, str(peer.underlay), live.port, "A", b"x" * 8,
                    seq=12345)
    error = ICMP(type=kind[0], code=kind[1], nexthopmtu=552) if kind == (3, 4) else ICMP(
        type=kind[0], code=kind[1])
    _wire(cluster, live, [IP(src=STRANGER, dst=str(own.underlay)) / error
                          / Raw(bytes(about)[:28 + 12])])
    _last(cluster, live)
    for namespace in (live.there.netns, machines[1].netns):
        cached = namespace.ip(f"route get {peer.underlay} from {own.underlay}")
        assert "mtu" not in cached, cached
        assert "via" not in cached, cached
    assert live.lives()


def test_an_icmp_error_of_a_neighbour_over_the_overlay(live: Victim) -> None:
    """It is in the neighbour's own name, and works no better than a stranger's."""
    thief: Container = live.here.machine.container("10.32.0.7/16")
    own, peer = endpoint(live.there), endpoint(live.here)
    about = segment(str(own.underlay), own.port, str(peer.underlay), live.port, "A", seq=12345)
    tap = Tap(live.there)
    send(thief, [IP(src=thief.address, dst=live.there.address)
                 / ICMP(type=3, code=code, nexthopmtu=552) / Raw(bytes(about)[:40])
                 for code in (1, 3, 4)])
    tap.wait_for(3)
    assert "mtu" not in live.there.netns.ip(
        f"route get {peer.underlay} from {own.underlay}")
    assert live.lives()


def test_a_service_of_the_host_is_not_touched(machines: list[Machine], cluster: Cluster) -> None:
    """Packets that are not slim's go to the host's own stack, also during an attack."""
    listener = machines[1].netns.call(lambda: socket.create_server(("0.0.0.0", 2222)))
    started(machines[1].container("10.32.0.3/16"), 'serve(listen("0.0.0.0", 2222))')
    with listener:
        address = str(machines[1].underlay)
        caller = cluster.wire.call(lambda: socket.create_connection((address, 2222), 5))
        with caller, listener.accept()[0] as accepted:
            assert accepted.getpeername()[0] == "198.18.77.254"
            assert caller.getpeername() == (address, 2222)
