"""Tests which packets to nobody are turned into an ICMP error for their sender, and when.

kernel/icmp.c, by from_container.  That a sender hears four a second at most is a matter of 0.25 s,
and so of tests/netns/overlay/test_unreachable.py; so are checksums that a device was to fill in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.kernel.packets.case import REDIRECT, SHOT, STOLEN, Ago, Case, Entry
from tests.kernel.packets.packets import (
    BROADCAST_MAC,
    FRAGMENT6,
    GRE,
    ICMP,
    ICMP6,
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
    unreachable,
    unreachable6,
)
from tests.kernel.packets.world import (
    BROADCAST,
    GONE,
    GONE6,
    GROUP,
    GROUP6,
    ME,
    ME6,
    MY_VETH,
    NEAR,
    NEAR_VETH,
    NOBODY,
    NOBODY6,
    SUBNET_BROADCAST,
    attempt,
    receiver,
)

row = partial(Case, program="from_container", came_by=MY_VETH)
LONG = bytes(1400)


def tried(address: str, ifindex: int = MY_VETH, vni: int = 1) -> Entry:
    """Return one who has tried for 4 s, and has not been told."""
    return attempt(address, ifindex, vni, first_ns=Ago(4), last_ns=Ago(1))


def four(payload: bytes, protocol: int = 17, to: str = NOBODY, *, fragment: int = 0,
         ttl: int = 64) -> bytes:
    return frame(ip4(ME, to, payload, protocol, fragment=fragment, ttl=ttl))


def six(payload: bytes, following: int = 17, to: str = NOBODY6) -> bytes:
    return frame(ip6(ME6, to, payload, following), IPV6)


TOLD = [
    *(row(why, packet, REDIRECT, "told_unreachable", after=unreachable(packet, 1),
          given=[tried(NOBODY)], then=[attempt(NOBODY)]) for why, packet in (
        ("UDP", four(udp())), ("a long datagram", four(udp(LONG))),
        ("a SYN", four(tcp(1, 2), TCP)), ("a ping", four(icmp(8, data=b"ping"), ICMP)),
        ("a ping's answer", four(icmp(0), ICMP)), ("a timestamp", four(icmp(13), ICMP)),
        ("GRE", four(bytes(64), GRE)), ("8 bytes", four(bytes(8), 253)),
        ("a first fragment", four(udp(LONG), fragment=MORE_FRAGMENTS)),
        ("the last TTL", four(udp(), ttl=1)))),
    row("one that has gone from here", packet := four(udp(), to=GONE), REDIRECT,
        "told_unreachable", after=unreachable(packet, 1), given=[tried(GONE)],
        then=[attempt(GONE)]),
    *(row(why, packet, REDIRECT, "told_unreachable", after=unreachable6(packet, quoted),
          given=[tried(NOBODY6)], then=[attempt(NOBODY6)]) for why, packet, quoted in (
        ("UDP over IPv6", six(udp()), 48), ("a long datagram over IPv6", six(udp(LONG)), 48),
        ("a SYN over IPv6", six(tcp(1, 2), TCP), 48),
        ("a ping over IPv6", six(icmp6(128), ICMP6), 48),
        ("a first fragment of IPv6", six(fragment6(17, udp(LONG)), FRAGMENT6), 56),
        ("a fragmented ping", six(fragment6(ICMP6, icmp6(128, data=LONG)), FRAGMENT6), 56))),
    row("one with IPv6 that has gone from here", packet := six(udp(), to=GONE6), REDIRECT,
        "told_unreachable", after=unreachable6(packet), given=[tried(GONE6)],
        then=[attempt(GONE6)]),
]
# RFC 1122, 3.2.2 and RFC 4443, 2.4 (e): else errors could beget errors.
NEVER = [row(why, packet, SHOT, "unknown_destination", given=[tried(NOBODY), tried(NOBODY6)])
         for why, packet in (
    *((f"ICMP error {kind}", four(icmp(kind, data=bytes(28)), ICMP)) for kind in (3, 4, 5, 11, 12)),
    ("a later fragment", four(bytes(64), fragment=10)),
    ("a later fragment that is not the last", four(bytes(64), fragment=MORE_FRAGMENTS | 1)),
    ("IP options", datagram(ME, NOBODY, options=b"\1" * 4)), ("no content", four(b"")),
    ("a broadcast on the link", datagram(ME, NOBODY, to=BROADCAST_MAC)),
    *((f"ICMPv6 message {kind}", six(icmp6(kind, data=bytes(48)), ICMP6))
      for kind in (1, 2, 3, 4, 127, 137)),
    ("an ICMPv6 error in a fragment",
     six(fragment6(ICMP6, icmp6(1, data=bytes(48))), FRAGMENT6)),
    ("a later IPv6 fragment", six(fragment6(17, bytes(64), offset=10), FRAGMENT6)),
    ("half a fragment header", six(bytes(7), FRAGMENT6)),
    ("what is behind IPv6 options", six(bytes(8) + udp(), OPTIONS6)),
    ("no ICMPv6 content", six(b"", ICMP6)),
    ("a broadcast on the link with IPv6", addressed(six(udp()), BROADCAST_MAC)))]
NOBODYS = [tried(address) for address in (GROUP, BROADCAST, SUBNET_BROADCAST, GROUP6, NOBODY)]
NOT_ANSWERED_EITHER = [
    *(row(why, packet, STOLEN, "flooded", after=addressed(packet, BROADCAST_MAC),
          given=[*NOBODYS, receiver(0, ifindex=MY_VETH), receiver(1, ifindex=MY_VETH)])
      for why, packet in (
        ("multicast", datagram(ME, GROUP)), ("broadcast", datagram(ME, BROADCAST)),
        ("the subnet's broadcast", datagram(ME, SUBNET_BROADCAST)),
        ("IPv6 multicast", datagram(ME6, GROUP6)))),
    row("another's source", datagram(NEAR, NOBODY), SHOT, "spoofed_source", given=NOBODYS),
]
TOO_SHORT = [  # to be quoted, though it may be answered: counted as an attempt in vain
    row("7 bytes", four(bytes(7), 253), SHOT, "unknown_destination", given=[tried(NOBODY)],
        then=[attempt(NOBODY)]),
    row("7 bytes over IPv6", six(bytes(7), 17), SHOT, "unknown_destination",
        given=[tried(NOBODY6)], then=[attempt(NOBODY6)]),
    row("7 bytes in an IPv6 fragment", six(fragment6(17, bytes(7)), FRAGMENT6), SHOT,
        "unknown_destination", given=[tried(NOBODY6)], then=[attempt(NOBODY6)]),
]


def not_yet(why: str, *given: Entry) -> Case:
    return row(why, datagram(ME, NOBODY), SHOT, "unknown_destination", given=given,
               then=[attempt(NOBODY, told_ns=0)])


TIMES = [
    not_yet("the first"), not_yet("a second after the first",
                                  attempt(NOBODY, first_ns=Ago(1), last_ns=Ago(1))),
    not_yet("again after a silence", attempt(NOBODY, first_ns=Ago(30), last_ns=Ago(20))),
    not_yet("again after a silence, when it was told before",
            attempt(NOBODY, first_ns=Ago(30), last_ns=Ago(20), told_ns=Ago(20))),
    not_yet("when another container tried", tried(NOBODY, NEAR_VETH)),
    not_yet("when it tried another network's", tried(NOBODY, vni=2)),
    not_yet("when it tried somebody else", tried("10.32.0.98")),
    row("told some seconds ago", packet := datagram(ME, NOBODY), REDIRECT, "told_unreachable",
        after=unreachable(packet, 1), then=[attempt(NOBODY)],
        given=[attempt(NOBODY, first_ns=Ago(9), last_ns=Ago(1), told_ns=Ago(4))]),
]


@pytest.mark.parametrize("case", TOLD, ids=lambda case: case.why)
def test_an_error(case: Case, run: Callable[[Case], None]) -> None:
    """Its checksums are right, and it quotes what it is about."""
    run(case)


@pytest.mark.parametrize("case", [*NEVER, *NOT_ANSWERED_EITHER, *TOO_SHORT],
                         ids=lambda case: case.why)
def test_what_is_never_answered(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", TIMES, ids=lambda case: case.why)
def test_when_it_is_time(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
