"""Tests from_container with packets of a container's own virtual address.

kernel/overlay.c; test_overlay_received_packets.py has what comes from other hosts.  Verdicts and
packets do not show where a redirect goes, nor the tunnel key that it goes with; of the copies of a
broadcast, which are really sent, both are seen.  A tunnel key that the kernel refuses is out of
reach.  No program looks at the TTL, as on a bridge.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.kernel.packets.case import REDIRECT, SHOT, STOLEN, Case, Entry
from tests.kernel.packets.packets import (
    BROADCAST_MAC,
    CONTAINER_MAC,
    ICMP,
    IPV6,
    MORE_FRAGMENTS,
    OPTIONS6,
    TCP,
    addressed,
    datagram,
    fragment6,
    frame,
    icmp,
    icmp6,
    ip4,
    ip6,
    tcp,
    udp,
)
from tests.kernel.packets.world import (
    ALIEN,
    ALIEN_VETH,
    BROADCAST,
    EMPTY_VIP,
    FAR,
    FAR6,
    FAR_MAC,
    FOREVER,
    GONE,
    GONE6,
    GROUP,
    GROUP6,
    HOST,
    ME,
    ME6,
    MY_VETH,
    NEAR,
    NEAR6,
    NEAR_MAC,
    NEAR_VETH,
    NO_INTERFACE,
    NOBODY,
    NOBODY6,
    OTHER_HOST,
    SUBNET_BROADCAST,
    THIRD_HOST,
    VIP,
    attempt,
    next_hop,
    receiver,
    veth,
)

GROUP_MAC = b"\x01\0\x5e\1\2\3"
row = partial(Case, program="from_container", came_by=MY_VETH)


def handed_over(why: str, packet: bytes) -> Case:
    return row(why, packet, REDIRECT, "overlay_local", after=addressed(packet, NEAR_MAC))


def tunnelled(why: str, packet: bytes, came_by: int = MY_VETH) -> Case:
    """Make a row: the VXLAN device gets it, since the route's MTU is not known."""
    return row(why, packet, REDIRECT, "overlay_sent by_device", after=addressed(packet, FAR_MAC),
               came_by=came_by, given=[next_hop(host, host, until_ns=FOREVER)
                                       for host in (OTHER_HOST, THIRD_HOST)])


TO_ENDPOINTS = [
    handed_over("UDP", datagram(ME, NEAR)), handed_over("UDP over IPv6", datagram(ME6, NEAR6)),
    handed_over("TCP", frame(ip4(ME, NEAR, tcp(1, 2), TCP))),
    handed_over("a header and nothing else", frame(ip4(ME, NEAR))),
    handed_over("a first fragment", datagram(ME, NEAR, fragment=MORE_FRAGMENTS)),
    handed_over("a later fragment", datagram(ME, NEAR, fragment=100)),
    handed_over("IP options", datagram(ME, NEAR, options=b"\1" * 4)),
    handed_over("an unknown protocol", frame(ip4(ME, NEAR, bytes(8), 253))),
    handed_over("the last TTL", datagram(ME, NEAR, ttl=1)),
    handed_over("no TTL", datagram(ME, NEAR, ttl=0)),
    handed_over("the last hop", frame(ip6(ME6, NEAR6, udp(), hops=1), IPV6)),
    handed_over("a fragment of IPv6", frame(ip6(ME6, NEAR6, fragment6(17, udp(), offset=9), 44),
                                            IPV6)),
    handed_over("options of IPv6", frame(ip6(ME6, NEAR6, bytes(8) + udp(), OPTIONS6), IPV6)),
    handed_over("a broadcast on the link", datagram(ME, NEAR, to=BROADCAST_MAC)),
    row("to itself", packet := datagram(ME, ME), REDIRECT, "overlay_local",
        after=addressed(packet, CONTAINER_MAC)),
    tunnelled("UDP to another host", datagram(ME, FAR)),
    tunnelled("UDP over IPv6 to another host", datagram(ME6, FAR6)),
    tunnelled("a fragment to another host", datagram(ME, FAR, fragment=100)),
    tunnelled("the last TTL, to another host", datagram(ME, FAR, ttl=1)),
    tunnelled("the other network's endpoint of that address", datagram(ALIEN, FAR), ALIEN_VETH),
]


def to_nobody(why: str, source: str, destination: str, came_by: int = MY_VETH, vni: int = 1
              ) -> Case:
    """Make a row; the attempt is remembered, see test_icmp_packets.py."""
    return row(why, datagram(source, destination), SHOT, "unknown_destination", came_by=came_by,
               then=[attempt(destination, came_by, vni, told_ns=0)])


TO_NOBODY = [
    to_nobody("nobody", ME, NOBODY), to_nobody("nobody with IPv6", ME6, NOBODY6),
    to_nobody("an endpoint of another network", ME, ALIEN),
    to_nobody("a host", ME, HOST), to_nobody("another host", ME, OTHER_HOST),
    to_nobody("one that has gone from here", ME, GONE),
    to_nobody("one with IPv6 that has gone from here", ME6, GONE6),
    to_nobody("another subnet's broadcast", ME, "10.33.255.255"),
    to_nobody("a service without tasks", ME, EMPTY_VIP), to_nobody("no address", ME, "0.0.0.0"),
    to_nobody("beyond groups", ME, "240.0.0.1"), to_nobody("below them", ME, "223.255.255.255"),
    to_nobody("IPv6 below groups", ME6, "feff::1"),
    to_nobody("a neighbour's network, from another", ALIEN, NEAR, ALIEN_VETH, 2),
    to_nobody("a service of another network", ALIEN, VIP, ALIEN_VETH, 2),
]
SOURCES6 = [row(why, packet, SHOT, reason) for reason, packets in (
    ("link_local6", (
        ("link-local", datagram("fe80::2", NEAR6)), ("its upper end", datagram("febf::2", NEAR6)),
        ("none", datagram("::", GROUP6)),
        ("a router", frame(ip6("fe80::1", "ff02::1", icmp6(134), 58), IPV6)),
        ("a neighbour", frame(ip6("fe80::1", "ff02::1", icmp6(136), 58), IPV6)))),
    ("spoofed_source", (
        ("a neighbour's", datagram(NEAR6, FAR6)), ("beyond link-local", datagram("fec0::2", NEAR6)),
        ("its own IPv4 address", datagram(f"::ffff:{ME}", NEAR6)),
        ("its own but for the last bit", datagram("fd00:32::3", FAR6)),
        ("its own but for the first", datagram("7d00:32::2", FAR6)),
        ("a neighbour's behind options",
         frame(ip6(NEAR6, FAR6, bytes(8) + udp(), OPTIONS6), IPV6)))),
) for why, packet in packets] + [
    row("of one that has IPv4 alone", datagram("fd00:32::7", NEAR6), SHOT, "spoofed_source",
        came_by=ALIEN_VETH),
    row("none of one that has IPv4 alone", datagram("::", NEAR6), SHOT, "link_local6",
        came_by=ALIEN_VETH),
    *(row(f"its own, {source}", packet := datagram(source, NEAR6), REDIRECT, "overlay_local",
          after=addressed(packet, NEAR_MAC), given=[veth(MY_VETH, ME, address6=source)])
      for source in ("fd00:32::", "::32", "fe00::2", "fd80::2"))]


def flooded(why: str, packet: bytes) -> Case:
    """Make a row: a copy for each other host and container, with a group's MAC."""
    sent = packet if packet[0] & 1 else addressed(packet, BROADCAST_MAC)
    return row(why, packet, STOLEN, "flooded", after=sent,
               copies=[(f"{OTHER_HOST}, 1", sent), ("near", sent)])


TO_ALL = [
    flooded("all", datagram(ME, BROADCAST)), flooded("the subnet", datagram(ME, SUBNET_BROADCAST)),
    flooded("a group", datagram(ME, GROUP)), flooded("the first group", datagram(ME, "224.0.0.0")),
    flooded("the last group", datagram(ME, "239.255.255.255")),
    flooded("an IPv6 group", datagram(ME6, GROUP6)),
    flooded("a group, with its MAC", datagram(ME, GROUP, to=GROUP_MAC)),
    flooded("all, with their MAC", datagram(ME, BROADCAST, to=BROADCAST_MAC)),
    row("nobody, with all's MAC", datagram(ME, NOBODY, to=BROADCAST_MAC), SHOT,
        "unknown_destination"),
]
ALL = datagram(ME, BROADCAST, to=BROADCAST_MAC)
RECEIVERS = [
    row("none", datagram(ALIEN, BROADCAST, to=BROADCAST_MAC), STOLEN, "flooded",
        came_by=ALIEN_VETH),
    row("two hosts", ALL, STOLEN, "flooded", given=[receiver(1, host=THIRD_HOST)],
        copies=[(f"{OTHER_HOST}, 1", ALL), (f"{THIRD_HOST}, 1", ALL)]),
    row("in a network of its own number", other := datagram(ALIEN, GROUP, to=GROUP_MAC), STOLEN,
        "flooded", came_by=ALIEN_VETH, given=[receiver(0, host=OTHER_HOST, vni=2)],
        copies=[(f"{OTHER_HOST}, 2", other)]),
    row("an interface that has gone", ALL, STOLEN, "flooded tunnel_failed",
        given=[receiver(1, ifindex=NO_INTERFACE)], copies=[(f"{OTHER_HOST}, 1", ALL)]),
    row("more than one packet can reach", ALL, STOLEN, "flooded flood_overflow",
        given=[receiver(at, ifindex=MY_VETH) for at in range(513)]),
    row("nearly as many", ALL, STOLEN, "flooded",
        given=[receiver(at, ifindex=MY_VETH) for at in range(511)]),
    row("exactly as many", ALL, STOLEN, "flooded",
        given=[*(receiver(at, ifindex=MY_VETH) for at in range(511)),
               receiver(511, ifindex=NEAR_VETH)], copies=[("near", ALL)]),
    row("the last that one packet can reach", ALL, STOLEN, "flooded flood_overflow",
        given=[*(receiver(at, ifindex=MY_VETH) for at in range(511)),
               receiver(511, ifindex=NEAR_VETH), receiver(512, ifindex=NEAR_VETH)],
        copies=[("near", ALL)]),
]


def ping(kind: int = 8, fragment: int = 0) -> bytes:
    return frame(ip4(ME, VIP, icmp(kind, 0, 0x01020304, b"data"), ICMP, fragment=fragment))


def pong() -> bytes:
    asked, answer = ping(), ip4(VIP, ME, icmp(0, 0, 0x01020304, b"data"), ICMP)
    return frame(answer, to=CONTAINER_MAC, source=asked[6:12])


SERVICES = [
    row("a ping", ping(), REDIRECT, "service_answered", after=pong()),
    *(row(why, packet, SHOT, "unknown_destination") for why, packet in (
        ("UDP", datagram(ME, VIP)), ("TCP", frame(ip4(ME, VIP, tcp(1, 2), TCP))),
        ("another ICMP message", ping(13)), ("an answer", ping(0)),
        ("a first fragment", ping(fragment=MORE_FRAGMENTS)),
        ("a later fragment", ping(fragment=2)), ("a ping cut short", ping()[:41]),
        ("a ping with options", frame(ip4(ME, VIP, icmp(8), ICMP, options=b"\1" * 4))),
        ("options that look like a ping", frame(ip4(ME, VIP, icmp(8), ICMP, options=icmp(8)))),
        ("UDP that looks like a ping", frame(ip4(ME, VIP, udp(sport=8 << 8)))))),
    row("an endpoint of that address comes first", packet := frame(ip4(ME, NEAR, icmp(8), ICMP)),
        REDIRECT, "overlay_local", after=addressed(packet, NEAR_MAC),
        given=[Entry("services", {"vni": 1, "addr_be": NEAR}, {"generation": 1, "count": 1})]),
]


@pytest.mark.parametrize("case", TO_ENDPOINTS, ids=lambda case: case.why)
def test_to_an_endpoint(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", TO_NOBODY, ids=lambda case: case.why)
def test_to_nobody(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", SOURCES6, ids=lambda case: case.why)
def test_a_source_of_ipv6(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", [*TO_ALL, *RECEIVERS], ids=lambda case: case.why)
def test_to_all(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", SERVICES, ids=lambda case: case.why)
def test_to_a_service(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
