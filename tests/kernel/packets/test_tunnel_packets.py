"""Tests from_wire with packets of the overlay path: stripped at once, or left to the VXLAN device.

kernel/tunnel.c; test_overlay_received_packets.py has what becomes of them behind the device, and
tests/netns/overlay what is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.kernel.packets.case import OK, REDIRECT, Case
from tests.kernel.packets.packets import (
    ANY_MAC,
    BROADCAST_MAC,
    ICMP,
    IPV6,
    MORE_FRAGMENTS,
    TCP,
    VLAN,
    addressed,
    datagram,
    frame,
    icmp,
    ip4,
    tcp,
    udp,
    vxlan,
)
from tests.kernel.packets.world import (
    ALIEN,
    BROADCAST,
    FAR,
    FAR6,
    GROUP6,
    HOST,
    ME,
    ME6,
    NEAR,
    NOBODY,
    NOBODY6,
    OTHER_HOST,
    STRANGER,
    THIRD_HOST,
    WIRE,
    WIRE_MAC,
)

row = partial(Case, program="from_wire", came_by=WIRE)
CE, ECT_1, ECT_0 = 3, 1, 2


def outer(inner: bytes, *, source: str = OTHER_HOST, to: str = HOST, tos: int = 0,
          fragment: int = 0, options: bytes = b"", **header: int) -> bytes:
    """Make what another host sends.  tos: of the outer header, whose checksum is right again."""
    whole = ip4(source, to, vxlan(inner, **header), fragment=fragment, options=options)
    if tos:
        check = int.from_bytes(whole[10:12], "big") - tos
        whole = whole[:1] + bytes([tos]) + whole[2:10] + check.to_bytes(2, "big") + whole[12:]
    return frame(whole, to=WIRE_MAC)


GOOD = datagram(FAR, ME)
STRIPPED = [row(why, outer(inner), REDIRECT, "overlay_received", after=inner)
            for why, inner in (
    ("UDP", GOOD), ("UDP over IPv6", datagram(FAR6, ME6)),
    ("as long as the wire takes", frame(ip4(FAR, ME, udp(bytes(1422))))),
    ("a SYN", frame(ip4(FAR, ME, tcp(5, 80), TCP))),
    ("a fragment", datagram(FAR, ME, fragment=100)),
    ("IP options", datagram(FAR, ME, options=b"\1" * 4)),
    ("a header and nothing else", frame(ip4(FAR, ME))),
    ("an error, which the container judges", frame(ip4(FAR, ME, icmp(3, 4), ICMP))),
    ("a broadcast on the link for one address", datagram(FAR, ME, to=BROADCAST_MAC)))]
STRIPPED += [
    row("of the other network", outer(datagram(FAR, ALIEN), source=THIRD_HOST, vni=2), REDIRECT,
        "overlay_received", after=datagram(FAR, ALIEN)),
    row("an ECN bit that says nothing new", outer(GOOD, tos=ECT_0), REDIRECT,
        "overlay_received", after=GOOD)]
TO_THE_DEVICE = [row(why, packet, OK) for why, packet in (
    ("a stranger's", outer(GOOD, source=STRANGER)),
    ("another host's", outer(GOOD, source=THIRD_HOST)),
    ("in this host's own name", outer(datagram(NEAR, ME), source=HOST)),
    ("from nobody", outer(datagram(NOBODY, ME))),
    ("from nobody, IPv6", outer(datagram(NOBODY6, ME6))),
    ("from its destination", outer(datagram(ME, ME))),
    ("to nobody", outer(datagram(FAR, NOBODY))),
    ("to nobody, IPv6", outer(datagram(FAR6, NOBODY6))),
    ("to another network's endpoint", outer(datagram(FAR, ALIEN))),
    ("of another network", outer(GOOD, vni=2)), ("of no network", outer(GOOD, vni=0)),
    ("to all", outer(datagram(FAR, BROADCAST, to=BROADCAST_MAC))),
    ("to an IPv6 group", outer(datagram(FAR6, GROUP6))),
    ("to another port", outer(GOOD, port=4789)), ("to port 0", outer(GOOD, port=0)),
    ("with an outer UDP checksum", outer(GOOD, check=1)),
    ("without the flag", outer(GOOD, flags=0)),
    ("with one more flag", outer(GOOD, flags=0x88000000)),
    ("with a reserved byte", outer(GOOD, reserved=1)),
    ("congestion was experienced", outer(GOOD, tos=CE)), ("L4S", outer(GOOD, tos=ECT_1)),
    ("the first fragment", outer(GOOD, fragment=MORE_FRAGMENTS)),
    ("a later fragment", outer(GOOD, fragment=1)),
    ("outer IP options", outer(GOOD, options=b"\1" * 4)),
    ("a wrong outer checksum", outer(GOOD)[:24] + b"\x12\x34" + outer(GOOD)[26:]),
    ("padding behind it", outer(GOOD) + b"\0"), ("cut short", outer(GOOD)[:-1]),
    ("no frame inside", outer(b"")), ("half a header", outer(GOOD[:14 + 19])),
    ("half an IPv6 header", outer(datagram(FAR6, ME6)[:14 + 39])),
    ("ARP", outer(frame(bytes(28), 0x0806))),
    ("a tag inside", outer(frame(bytes.fromhex("0005 0800") + ip4(FAR, ME), VLAN))),
    ("version 6 in an IPv4 frame", outer(frame(ip4(FAR, ME, first=0x65)))),
    ("an IPv4 packet in an IPv6 frame", outer(frame(ip4(FAR, ME) + bytes(20), IPV6))),
    ("much of a stream", outer(frame(ip4(FAR, ME, tcp(5, 80, "A", bytes(1000)), TCP)))),
)]
NOT_FOR_US = [
    row("to another host", outer(GOOD, to=THIRD_HOST), OK), row("tagged", outer(GOOD), OK, vlan=5),
    row("another machine's on the wire", addressed(outer(GOOD), ANY_MAC), OK),
    row("broadcast on the wire", addressed(outer(GOOD), BROADCAST_MAC), OK)]


@pytest.mark.parametrize("case", STRIPPED, ids=lambda case: case.why)
def test_handed_over_at_once(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", [*TO_THE_DEVICE, *NOT_FOR_US], ids=lambda case: case.why)
def test_left_as_it_is(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
