"""Tests from_container with a container's forged packets, about its neighbours' connections.

kernel/host.c and overlay.c.  Each kind is tried in every combination here; tests/netns/attacks has
one of each kind, with real connections that must survive it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest

from tests.kernel.packets.case import SHOT, Case
from tests.kernel.packets.packets import (
    ARP,
    FRAGMENT6,
    ICMP,
    ICMP6,
    IPV6,
    MORE_FRAGMENTS,
    OPTIONS6,
    ROUTING6,
    TCP,
    fragment6,
    frame,
    icmp,
    icmp6,
    ip4,
    ip6,
    option,
    tcp,
    udp,
)
from tests.kernel.packets.world import (
    ALIEN_PORT,
    FAR_PORT,
    FREE_PORT,
    HOST,
    ME6,
    MY_PORT,
    MY_VETH,
    NEAR,
    NEAR6,
    NEAR_PORT,
    NEAR_VETH,
    NOBODY6,
    OTHER_HOST,
    PORT_LAST,
    STRANGER,
    THEIRS,
    attempt,
    flow,
)

CLIENT, PEER = 40000, 50000  # ports of a client of NEAR's, and of one that NEAR serves
NEIGHBOURS = [flow(*name, sandbox=THEIRS, ifindex=NEAR_VETH) for name in (
    (OTHER_HOST, FAR_PORT, CLIENT), (OTHER_HOST, PEER, NEAR_PORT),
    (HOST, MY_PORT, CLIENT), (HOST, PEER, NEAR_PORT))]
FLAGS = ("R", "RA", "FA", "PA", "A", "SA", "", "FSRPAU")
row = partial(Case, program="from_container", came_by=MY_VETH, given=NEIGHBOURS)


def segment(to: str, sport: int, dport: int, flags: str, data: bytes = b"", *,
            options: bytes = b"", source: str = HOST, words: int = 0, length: int = 0) -> bytes:
    return frame(ip4(source, to, tcp(sport, dport, flags, data, options, words=words), TCP,
                     length=length))


def piece(payload: bytes, *, fragment: int = 0, options: bytes = b"", first: int = 0) -> bytes:
    return frame(ip4(HOST, OTHER_HOST, payload, TCP, fragment=fragment, options=options,
                     first=first))


SEGMENTS = [
    *(row(f"{flags} of a client, {len(data)} bytes, as {name}",
          segment(OTHER_HOST, CLIENT, FAR_PORT, flags, data, options=options), SHOT, "foreign_flow")
      for flags, data, (name, options) in product(FLAGS, (b"", b"evil"), (
          ("nobody", b""), ("it", option(80, NEAR_PORT)), ("itself", option(80, MY_PORT))))),
    *(row(f"{flags} of a client to {to}, as {port}",
          segment(to, CLIENT, dport, flags, options=option(80, port)), SHOT, "foreign_flow")
      for flags, (to, dport), port in product(
          ("S", "SF", "SP", "SU", "SEC"), ((OTHER_HOST, FAR_PORT), (HOST, MY_PORT)),
          (NEAR_PORT, MY_PORT))),
    *(row(f"{flags} of a server to {to}, {len(data)} bytes",
          segment(to, NEAR_PORT, PEER, flags, data), SHOT, "foreign_flow")
      for flags, to, data in product(FLAGS, (OTHER_HOST, HOST), (b"", b"evil"))),
    *(row(f"{flags} of another host's server, {len(data)} bytes",
          segment(HOST, FAR_PORT, CLIENT, flags, data, source=OTHER_HOST), SHOT, "spoofed_source")
      for flags, data in product(FLAGS, (b"", b"evil"))),
    *(row(f"a SYN to another network's endpoint, as {port}",
          segment(OTHER_HOST, CLIENT + 1, ALIEN_PORT, "S", options=option(80, port)), SHOT,
          "foreign_flow") for port in (MY_PORT, ALIEN_PORT)),
    *(row(f"{flags} of the host's, {sport} to {dport} of {to}",
          segment(to, sport, dport, flags, b"evil"), SHOT, "foreign_flow")
      for to, (sport, dport), flags in product(
          (HOST, OTHER_HOST), ((22, PEER), (PEER, 22), (2379, PEER), (PEER, 2379)),
          ("S", "R", "PA"))),
    *(row(f"{flags} of no connection, from {sport} to {dport} of {to}",
          segment(to, sport, dport, flags, options=option(80, MY_PORT)), SHOT,
          "late_ack" if flags == "A" else "foreign_flow")
      for sport, (to, dport), flags in product(
          (CLIENT + 1, FREE_PORT, PORT_LAST, MY_PORT),
          ((OTHER_HOST, FAR_PORT), (OTHER_HOST, 22), (STRANGER, 80)), ("S", "A", "SA", "R"))
      if (sport, flags) != (MY_PORT, "R")),
]
WHOLE = tcp(CLIENT, FAR_PORT, "PA", b"evil" * 20)
PIECES = [row(why, piece_, SHOT, "spoofed_source") for why, piece_ in (
    ("a first fragment's ports", piece(WHOLE[:8], fragment=MORE_FRAGMENTS)),
    ("a first fragment's header", piece(WHOLE[:24], fragment=MORE_FRAGMENTS)),
    ("a fragment with the rest of a header", piece(WHOLE[8:], fragment=1)),
    ("a fragment of data", piece(WHOLE[24:], fragment=3)),
    ("IP options", piece(WHOLE, options=b"\1\1\1\0")),
    ("a source route", piece(WHOLE, options=b"\x83\x07\x04\x0a\x20\x00\x03\x00")),
    ("ports alone", piece(WHOLE[:8])), ("nothing", piece(b"")),
    ("an IP header of 16 bytes", piece(WHOLE, first=0x44)))]
LIES = [
    *(row(f"{flags} with a header of {words} words",
          segment(OTHER_HOST, CLIENT, FAR_PORT, flags, data, words=words), SHOT, "foreign_flow")
      for (flags, data), words in product((("PA", b"evil"), ("S", b"")), (4, 15, 16))),  # 16: 0
    row("a packet of 28 bytes", segment(OTHER_HOST, CLIENT, FAR_PORT, "PA", b"evil", length=28),
        SHOT, "foreign_flow"),
]
ABOUT = ip4(HOST, OTHER_HOST, WHOLE, TCP)[:28]
OTHERS = [
    *(row(f"ICMP error {code} of {host}",
          frame(ip4(host, HOST, icmp(3, code, 600, ABOUT), ICMP)), SHOT, "spoofed_source")
      for code, host in product((1, 3, 4), (OTHER_HOST, HOST))),
    *(row(f"ARP {operation} of {address}", frame(bytes.fromhex("0001 0800 0604") + operation
                                                 .to_bytes(2, "big") + bytes(20), ARP),
          SHOT, "not_ip") for operation, address in product((1, 2), (NEAR, HOST))),
    *(row(f"a router's message {kind}", frame(ip6("fe80::1", "ff02::1", icmp6(kind, data=bytes(
        16)), ICMP6, hops=255), IPV6), SHOT, "link_local6") for kind in (134, 136, 137)),
]
BEHIND_HEADERS = [(why, payload, following) for why, payload, following in (
    ("options", bytes((17, 0, 1, 4, 0, 0, 0, 0)) + udp(), OPTIONS6),
    ("a fragment header", fragment6(17, udp()), FRAGMENT6),
    ("a routing header", bytes((17, 2, 0, 1, 0, 0, 0, 0)) + bytes(16) + udp(), ROUTING6),
    ("an advertisement", icmp6(136, data=bytes(16)), ICMP6))]
IN_ANOTHER_NAME = [
    row(f"{source} with {why}", frame(ip6(source, NOBODY6, payload, following), IPV6), SHOT,
        "spoofed_source")
    for source in (NEAR6, f"::ffff:{NEAR}") for why, payload, following in BEHIND_HEADERS
] + [row(f"its own name with {why}", frame(ip6(ME6, NOBODY6, payload, following), IPV6), SHOT,
         "unknown_destination", then=[attempt(NOBODY6)] if answered else [])
     for (why, payload, following), answered in zip(BEHIND_HEADERS, (0, 1, 0, 1), strict=True)]


@pytest.mark.parametrize("case", [*SEGMENTS, *PIECES, *LIES, *OTHERS, *IN_ANOTHER_NAME],
                         ids=lambda case: case.why)
def test_a_forged_packet(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
