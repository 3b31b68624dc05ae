"""Tests from_overlay with packets that came in VXLAN from another host.

kernel/overlay.c.  The outer header is gone by then; what is left of it is the tunnel key, which
harness.py sets: network (VNI) and outer source.  Of an outer header of IPv6, which names no host,
the program sees no more than of none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.kernel.packets.case import REDIRECT, SHOT, STOLEN, Case
from tests.kernel.packets.packets import (
    ARP,
    BROADCAST_MAC,
    ICMP,
    VLAN,
    addressed,
    datagram,
    frame,
    icmp,
    ip4,
    udp,
)
from tests.kernel.packets.world import (
    ALIEN,
    ALIEN_VETH,
    BROADCAST,
    FAR,
    FAR6,
    GONE,
    GROUP,
    GROUP6,
    HOST,
    ME,
    ME6,
    NEAR,
    NEAR6,
    NEAR_MAC,
    NO_INTERFACE,
    NOBODY,
    NOBODY6,
    OTHER_HOST,
    STRANGER,
    SUBNET_BROADCAST,
    THIRD_HOST,
    VIP,
    VXLAN,
    receiver,
    remote,
)

row = partial(Case, program="from_overlay", came_by=VXLAN, tunnel=(1, OTHER_HOST))
GROUP_MAC = b"\x01\0\x5e\1\2\3"

DELIVERED = [row(why, packet, REDIRECT, "overlay_received by_device") for why, packet in (
    ("UDP", datagram(FAR, ME)), ("UDP over IPv6", datagram(FAR6, ME6)),
    ("a fragment", datagram(FAR, ME, fragment=100)), ("the last TTL", datagram(FAR, ME, ttl=1)),
    ("IP options", datagram(FAR, ME, options=b"\1" * 4)),
    ("a header and nothing else", frame(ip4(FAR, ME))),
    ("an error, which the container judges", frame(ip4(FAR, ME, icmp(3, 4), ICMP))),
    ("a broadcast on the link for one address", datagram(FAR, ME, to=BROADCAST_MAC)))]
OTHER_NETWORK = [
    row("the endpoint of its own network", datagram(FAR, ALIEN), REDIRECT,
        "overlay_received by_device", tunnel=(2, THIRD_HOST)),
    row("another network's endpoint", datagram(FAR, ME), SHOT, "overlay_no_endpoint",
        tunnel=(2, THIRD_HOST)),
    row("another network's endpoint, from the host that it is on there", datagram(FAR, ME), SHOT,
        "overlay_wrong_host", tunnel=(2, OTHER_HOST)),
]
NOT_FROM_THERE = [row(why, packet, SHOT, "overlay_wrong_host", tunnel=tunnel)
                  for tunnel, packets in (
    ((1, OTHER_HOST), (
        ("nobody's address", datagram(NOBODY, ME)), ("nobody's IPv6", datagram(NOBODY6, ME6)),
        ("an address of this host", datagram(NEAR, ME)), ("the same, IPv6", datagram(NEAR6, ME6)),
        ("its destination's own", datagram(ME, ME)), ("a host's", datagram(OTHER_HOST, ME)),
        ("none", datagram("0.0.0.0", ME)), ("a service's", datagram(VIP, ME)),
        ("another network's endpoint", datagram(ALIEN, ME)),
        ("link-local", datagram("fe80::1", ME6)),
        ("nobody's, to all", datagram(NOBODY, BROADCAST, to=BROADCAST_MAC)),
        ("nobody's, to a group", datagram(NOBODY, GROUP, to=GROUP_MAC)),
        ("nobody's, to an IPv6 group", datagram(NOBODY6, GROUP6)))),
    ((1, STRANGER), (
        ("of a stranger", datagram(FAR, ME)), ("of a stranger, IPv6", datagram(FAR6, ME6)),
        ("of a stranger, to all", datagram(FAR, BROADCAST)))),
    ((1, THIRD_HOST), (("on another host", datagram(FAR, ME)),)),
    ((1, HOST), (("in the name of this host", datagram(NEAR, ME)),
                 ("gone from this host", datagram(GONE, ME)))),
    ((0, OTHER_HOST), (("network 0", datagram(FAR, ME)),)),
    ((0xffffff, OTHER_HOST), (("the last network", datagram(FAR, ME)),)),
) for why, packet in packets]
NOBODY_HERE = [row(why, packet, SHOT, "overlay_no_endpoint") for why, packet in (
    ("nobody", datagram(FAR, NOBODY)), ("nobody with IPv6", datagram(FAR6, NOBODY6)),
    ("nobody with IPv6, with all's MAC", addressed(datagram(FAR6, NOBODY6), BROADCAST_MAC)),
    ("another network's endpoint, in this one", datagram(FAR, ALIEN)),
    ("a host", datagram(FAR, HOST)),
    ("one that has gone", datagram(FAR, GONE)), ("a service", datagram(FAR, VIP)),
    ("the subnet, without a group's MAC", datagram(FAR, SUBNET_BROADCAST)),
    ("the sender itself", datagram(FAR, FAR)))]
NO_PACKETS = [
    row("no tunnel", datagram(FAR, ME), SHOT, "tunnel_failed", tunnel=None),
    row("a tag", datagram(FAR, ME), SHOT, "vlan_tag", vlan=5),
    *(row(why, packet, SHOT, "not_ip") for why, packet in (
        ("ARP", frame(bytes(28), ARP)), ("an unknown protocol", frame(bytes(46), 0x88CC)),
        ("a frame with a length in place of a kind", frame(bytes(46), 46)),
        ("a tag that the device has left in",
         frame(bytes.fromhex("0005 0800") + ip4(FAR, ME), VLAN)))),
    row("version 6 in an IPv4 frame", frame(ip4(FAR, ME, udp(), first=0x65)), SHOT, "malformed"),
    row("a header of 19 bytes", datagram(FAR, ME), SHOT, "malformed", cut=14 + 19),
    row("an IPv6 header of 39 bytes", datagram(FAR6, ME6), SHOT, "malformed", cut=14 + 39),
    row("half an IPv6 header", datagram(FAR6, ME6), SHOT, "malformed", cut=14 + 20),
]


def flooded(why: str, packet: bytes) -> Case:
    """Make a row: a copy for each container of this host; other hosts have had theirs."""
    return row(why, packet, STOLEN, "flooded", copies=[("near", packet), ("mine", packet)])


ALL = datagram(FAR, BROADCAST, to=BROADCAST_MAC)
TO_ALL = [
    flooded("all", ALL), flooded("a group", datagram(FAR, GROUP, to=GROUP_MAC)),
    flooded("all, without their MAC", datagram(FAR, BROADCAST)),
    flooded("the subnet", datagram(FAR, SUBNET_BROADCAST, to=BROADCAST_MAC)),
    flooded("an IPv6 group", datagram(FAR6, GROUP6)),
    row("nobody of the network is here", datagram(FAR, BROADCAST), STOLEN, "flooded",
        tunnel=(2, THIRD_HOST)),
    row("of the other network", ALL, STOLEN, "flooded", tunnel=(2, THIRD_HOST),
        given=[receiver(0, ifindex=ALIEN_VETH, vni=2)], copies=[("alien", ALL)]),
    row("an interface that has gone", ALL, STOLEN, "flooded tunnel_failed",
        given=[receiver(1, ifindex=NO_INTERFACE)], copies=[("mine", ALL)]),
    row("more than one packet can reach", ALL, STOLEN, "flooded flood_overflow",
        given=[receiver(at, host=THIRD_HOST) for at in range(513)]),
]
MOVED = [
    row("an endpoint that has moved to the sender", datagram(NEAR, ME), REDIRECT,
        "overlay_received by_device", given=[remote(NEAR, OTHER_HOST, NEAR_MAC)]),
    row("an endpoint that has moved from the sender", datagram(FAR, ME), SHOT,
        "overlay_wrong_host", given=[remote(FAR, THIRD_HOST, NEAR_MAC)]),
]


@pytest.mark.parametrize("case", [*DELIVERED, *OTHER_NETWORK, *NOBODY_HERE, *MOVED],
                         ids=lambda case: case.why)
def test_for(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", NOT_FROM_THERE, ids=lambda case: case.why)
def test_an_inner_source_that_is_not_the_senders(case: Case, run: Callable[[Case], None]
                                                  ) -> None:
    run(case)


@pytest.mark.parametrize("case", NO_PACKETS, ids=lambda case: case.why)
def test_what_is_no_packet(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", TO_ALL, ids=lambda case: case.why)
def test_for_all(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
