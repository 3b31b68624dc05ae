"""Tests a container with CAP_NET_RAW, Docker's default, that attacks its neighbours' connections.

The thief shares its host with one or both ends of a live connection, and knows its tuple.
"""

from __future__ import annotations

import pytest
from scapy.layers.igmp import IGMP
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, IPOption, TCPerror
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.netns.attacks.attack import (
    Tap,
    Victim,
    endpoint,
    frame,
    segment,
    send,
    syn_option,
    victim,
    vxlan,
)
from tests.netns.talk import counted
from tests.support.world.machines import Container, Machine

Pair = tuple[Container, Container]
ADDRESS = "10.32.0.4"


@pytest.fixture
def live(pair: Pair) -> Victim:
    return victim(*pair)


@pytest.fixture
def thief(machines: list[Machine]) -> Container:
    made = machines[0].container()
    machines[0].connect(made, f"{ADDRESS}/16", address6="fd00:32::4/64")
    return made


def _attack(thief: Container, live: Victim, packets: list[Packet], **expected: int) -> None:
    """Send; assert the counters, that no packet arrived, and that the connection lives."""
    taps = [Tap(live.here), Tap(live.there)]
    with counted(thief, live.here, live.there) as total:
        send(thief, packets)
    assert total == expected
    assert not any(tap.frames() for tap in taps)
    assert live.lives()


def _client_side(live: Victim, flags: str, data: bytes = b"", **fields: object) -> Packet:
    own, to = endpoint(live.here).underlay, endpoint(live.there)
    return segment(str(own), live.port, str(to.underlay), to.port, flags, data, **fields)


def _server_side(live: Victim, flags: str, data: bytes = b"", **fields: object) -> Packet:
    own, to = endpoint(live.there), endpoint(live.here).underlay
    return segment(str(own.underlay), own.port, str(to), live.port, flags, data, **fields)


FLAGS = ("R", "RA", "FA", "PA", "A", "SA", "", "FSRPAU")


def test_segments_of_a_neighbours_connection(thief: Container, live: Victim) -> None:
    """They have any flags, data or none, the true caller's option or the thief's."""
    packets = [_client_side(live, flags, data, options=options)
               for flags in FLAGS for data in (b"", b"evil")
               for options in ([], syn_option(80, endpoint(live.here).port),
                               syn_option(80, endpoint(thief).port))]
    _attack(thief, live, packets, foreign_flow=len(packets))


def test_syns_of_a_neighbours_connection(thief: Container, live: Victim) -> None:
    packets = [_client_side(live, flags, options=syn_option(80, port))
               for flags in ("S", "SF", "SP", "SU", "SEC")
               for port in (endpoint(live.here).port, endpoint(thief).port)]
    _attack(thief, live, packets, foreign_flow=len(packets))


def test_segments_of_a_neighbours_server(thief: Container, live: Victim) -> None:
    """They come from the server's port, with its host's address: on one host the thief's own."""
    packets = [_server_side(live, flags, data) for flags in FLAGS for data in (b"", b"evil")]
    if live.there.machine is thief.machine:
        _attack(thief, live, packets, foreign_flow=len(packets))
    else:
        _attack(thief, live, packets, spoofed_source=len(packets))


def test_a_syn_to_another_networks_endpoint(machines: list[Machine], thief: Container) -> None:
    """It has the host's address, and names the caller itself or one that may call."""
    live = victim(machines[0].container("10.40.0.2/16", vni=9),
                  machines[1].container("10.40.0.3/16", vni=9))
    to = endpoint(live.there)
    packets = [segment(str(thief.machine.underlay), 40000, str(to.underlay), to.port,
                       options=syn_option(80, port))
               for port in (endpoint(thief).port, endpoint(live.here).port)]
    _attack(thief, live, packets, foreign_flow=2)


def test_the_hosts_own_connections_and_services(thief: Container, live: Victim) -> None:
    """ssh on U, this host's and the other's, from the ports of etcd's or ssh's clients."""
    own, other = str(thief.machine.underlay), str(endpoint(live.there).underlay)
    packets = [segment(own, sport, target, dport, flags, b"evil")
               for target in {own, other}
               for sport, dport in ((22, 40000), (40000, 22), (2379, 40000), (40000, 2379))
               for flags in ("S", "R", "PA")]
    _attack(thief, live, packets, foreign_flow=len(packets))


def test_tagged_frames(thief: Container, live: Victim) -> None:
    """The tag would leave with the packet, and take it into the VLAN that it names."""
    outer = Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff")
    packets = [outer / Dot1Q(vlan=5) / _client_side(live, "PA", b"evil"),
               outer / Dot1Q(vlan=0) / _client_side(live, "S"),
               outer / Dot1Q(vlan=5) / IP(src=ADDRESS, dst=live.there.address) / UDP(),
               outer / Dot1Q(vlan=5) / Dot1Q(vlan=6) / _client_side(live, "R"),
               Ether(type=0x88A8, dst=outer.dst) / Dot1Q(vlan=5) / _client_side(live, "R")]
    _attack(thief, live, packets, **{"vlan_tag": len(packets)})


def test_fragments_and_options_of_the_hosts_packets(thief: Container, live: Victim) -> None:
    whole = bytes(_client_side(live, "PA", b"evil" * 20)[TCP])
    base = {"src": str(endpoint(live.here).underlay), "dst": str(endpoint(live.there).underlay),
            "proto": 6}
    packets = [IP(**base, flags="MF") / Raw(whole[:8]), IP(**base, flags="MF") / Raw(whole[:24]),
               IP(**base, frag=1) / Raw(whole[8:]), IP(**base, frag=3) / Raw(whole[24:]),
               IP(**base, options=[IPOption(b"\x01\x01\x01\x00")]) / Raw(whole),
               IP(**base, options=[IPOption(b"\x83\x07\x04\x0a\x20\x00\x03\x00")]) / Raw(whole),
               IP(**base) / Raw(whole[:8]), IP(**base) / Raw(b""), IP(**base, ihl=4) / Raw(whole)]
    _attack(thief, live, packets, spoofed_source=len(packets))


def test_headers_that_lie_about_their_length(thief: Container, live: Victim) -> None:
    packets = [_client_side(live, "PA", b"evil", dataofs=length) for length in (0, 4, 15)]
    packets += [_client_side(live, "S", dataofs=length) for length in (0, 4, 15)]
    whole = _client_side(live, "PA", b"evil")
    whole[IP].len = 28
    _attack(thief, live, [*packets, whole], foreign_flow=7)


def test_overlay_packets_to_hosts(thief: Container, live: Victim) -> None:
    """VXLAN and pings from a container to U, with its own address or the host's."""
    here, there = str(thief.machine.underlay), str(endpoint(live.there).underlay)
    inner = IP(src=live.here.address, dst=live.there.address) / UDP(dport=5000) / Raw(b"evil")
    targets = {here, there}
    own = [p for target in targets
           for p in (vxlan(1, inner, source=ADDRESS, destination=target),
                     IP(src=ADDRESS, dst=target) / ICMP())]
    forged = [p for target in targets
              for p in (vxlan(1, inner, source=here, destination=target),
                        IP(src=here, dst=target) / ICMP(),
                        IP(src=here, dst="224.0.0.22") / IGMP())]
    _attack(thief, live, own + forged, unknown_destination=len(own), spoofed_source=len(forged))


def test_icmp_errors_in_the_hosts_name(thief: Container, live: Victim) -> None:
    """They are about the neighbour's connection; test_underlay.py has one in its own name."""
    about = _client_side(live, "A", seq=1)
    inner = IPerror(bytes(about)[:28])
    assert inner.haslayer(TCPerror)
    packets = [IP(src=str(endpoint(live.there).underlay), dst=str(endpoint(live.here).underlay))
               / ICMP(type=3, code=code, nexthopmtu=600) / inner for code in (1, 3, 4)]
    _attack(thief, live, packets, spoofed_source=3)


def test_neighbour_games(thief: Container, live: Victim) -> None:
    """Nobody listens to its ARP and ND, and none leaves the host."""
    arps = [frame(ARP(op=op, psrc=address, pdst=live.there.address, hwdst="ff:ff:ff:ff:ff:ff"))
            for op in ("who-has", "is-at")
            for address in (live.here.address, str(endpoint(live.here).underlay))]
    router = IPv6(src="fe80::1", dst="ff02::1", hlim=255)
    games = [router / ICMPv6ND_RA(), router / ICMPv6ND_NA(tgt="fd00:32::3"),
             router / ICMPv6ND_Redirect(tgt="fe80::1", dst="fd00:32::3")]
    before = thief.machine.counters()["link_local6"]
    _attack(thief, live, arps, not_ip=len(arps))
    _attack(thief, live, [frame(game) for game in games])  # counted() leaves link_local6 out
    assert thief.machine.counters()["link_local6"] >= before + len(games)


def test_ipv6_in_another_name(thief: Container, live: Victim) -> None:
    """Extension headers do not hide whose address it is."""
    def with_headers(source: str) -> list[Packet]:
        base = IPv6(src=source, dst="fd00:32::99")
        return [base / IPv6ExtHdrDestOpt() / UDP(), base / IPv6ExtHdrFragment(m=1) / UDP(),
                base / IPv6ExtHdrRouting(addresses=["fd00:32::4"]) / UDP(),
                base / ICMPv6ND_NA(tgt="fd00:32::3")]

    for source, reason in (("fd00:32::9", "spoofed_source"), ("::ffff:10.32.0.2",
                           "spoofed_source"), ("fd00:32::4", "unknown_destination")):
        packets = [frame(packet) for packet in with_headers(source)]
        _attack(thief, live, packets, **{reason: len(packets)})
