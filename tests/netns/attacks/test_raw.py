"""Tests a container with CAP_NET_RAW, Docker's default, that attacks its neighbours' connections.

The thief shares its host with one or both ends of a live connection, and knows its tuple.
tests/kernel/packets/test_host_forged_packets.py has many more such packets, without connections.
"""

from __future__ import annotations

import pytest
from scapy.layers.igmp import IGMP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.netns.attacks.attack import (
    Tap,
    Victim,
    endpoint,
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


def test_segments_of_a_neighbours_server(thief: Container, live: Victim) -> None:
    """They come from the server's port, with its host's address: on one host the thief's own."""
    packets = [_server_side(live, flags, data) for flags in FLAGS for data in (b"", b"evil")]
    if live.there.machine is thief.machine:
        _attack(thief, live, packets, foreign_flow=len(packets))
    else:
        _attack(thief, live, packets, spoofed_source=len(packets))


def test_tagged_frames(thief: Container, live: Victim) -> None:
    """The tag would leave with the packet, and take it into the VLAN that it names."""
    outer = Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff")
    packets = [outer / Dot1Q(vlan=5) / _client_side(live, "PA", b"evil"),
               outer / Dot1Q(vlan=0) / _client_side(live, "S"),
               outer / Dot1Q(vlan=5) / IP(src=ADDRESS, dst=live.there.address) / UDP(),
               outer / Dot1Q(vlan=5) / Dot1Q(vlan=6) / _client_side(live, "R"),
               Ether(type=0x88A8, dst=outer.dst) / Dot1Q(vlan=5) / _client_side(live, "R")]
    _attack(thief, live, packets, **{"vlan_tag": len(packets)})


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
