"""Tests from_wire: the host's own packets pass, containers' go to them.

kernel/host.c; test_deliver_packets.py has what becomes of a container's SYNs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.kernel.packets.case import OK, REDIRECT, SHOT, Case, Entry
from tests.kernel.packets.packets import (
    ANY_MAC,
    ARP,
    BROADCAST_MAC,
    ICMP,
    IPV6,
    MORE_FRAGMENTS,
    TCP,
    UDP,
    VLAN,
    frame,
    icmp,
    ip4,
    ip6,
    option,
    proof,
    tcp,
    udp,
)
from tests.kernel.packets.world import (
    ALIEN_PORT,
    BEHIND_GATEWAY,
    FAR_PORT,
    FREE_PORT,
    GATEWAY,
    HOST,
    ME,
    MY_PORT,
    OTHER_HOST,
    STRANGER,
    UNKNOWN_PORT,
    WIRE,
    WIRE_MAC,
    caller,
    flow,
    key,
    next_hop,
)

SPORT = 40000
OPEN = flow(OTHER_HOST, FAR_PORT, SPORT)
row = partial(Case, program="from_wire", came_by=WIRE)


def wire(payload: bytes = b"", protocol: int = TCP, *, source: str = OTHER_HOST,
         destination: str = HOST, mac: bytes = WIRE_MAC, fragment: int = 0, first: int = 0
         ) -> bytes:
    return frame(ip4(source, destination, payload, protocol, fragment=fragment, first=first),
                 to=mac)


ANSWER = tcp(FAR_PORT, SPORT, "PA", b"x")  # to a client that is ME
QUESTION = tcp(SPORT, MY_PORT, "PA", b"x")  # to the endpoint port of ME
PASSES = [row(why, packet, OK, given=[OPEN]) for why, packet in (
    ("a stranger's frame", wire(ANSWER, mac=ANY_MAC)),
    ("a broadcast on the link", wire(ANSWER, mac=BROADCAST_MAC)),
    ("for another machine's address", wire(ANSWER, destination=STRANGER)),
    ("for a container's virtual address", wire(ANSWER, destination=ME)),
    ("ARP", frame(bytes(28), ARP, to=WIRE_MAC)),
    ("IPv6", frame(ip6("fe80::1", "fe80::2", udp()), IPV6, to=WIRE_MAC)),
    ("a tag that the device has left in",
     frame(bytes.fromhex("0005 0800") + ip4(OTHER_HOST, HOST, ANSWER, TCP), VLAN, to=WIRE_MAC)),
    ("UDP", wire(udp(), UDP)),
    ("version 6 in an IPv4 frame", wire(ANSWER, first=0x65)),
    ("IP options", frame(ip4(OTHER_HOST, HOST, ANSWER, TCP, options=b"\1" * 4), to=WIRE_MAC)),
    ("a first fragment", wire(ANSWER, fragment=MORE_FRAGMENTS)),
    ("a later fragment", wire(ANSWER, fragment=2)),
    ("half a TCP header", wire(ANSWER[:19])),
    ("a martian", wire(ANSWER, source=HOST)),
    ("a connection of the host's own", wire(tcp(2222, SPORT + 1, "PA"))),
    ("another host's connection", wire(ANSWER, source=STRANGER)),
    ("a SYN to the host's own port", wire(tcp(SPORT, 22, "S"))),
    ("RST for the host", wire(tcp(2222, SPORT + 1, "R"))),
)]
PASSES_THOUGH = [
    row("a tag", wire(ANSWER), OK, vlan=5, given=[OPEN]),
    row("a header cut short", wire(ANSWER), OK, cut=14 + 19, given=[OPEN]),
    row("a martian, even of a connection", wire(ANSWER, source=HOST), OK,
        given=[flow(HOST, FAR_PORT, SPORT)]),
]
TO_CONTAINERS = [
    row("to a client", wire(ANSWER), REDIRECT, given=[OPEN]),
    row("RST to a client", wire(tcp(FAR_PORT, SPORT, "RA")), REDIRECT, given=[OPEN]),
    row("to an endpoint port", wire(QUESTION), REDIRECT),
    row("to an endpoint port, by a stranger", wire(QUESTION, source=STRANGER), REDIRECT),
]


def about(inner: bytes, kind: int = 3) -> bytes:
    """Make a router's ICMP error about a packet."""
    return wire(icmp(kind, 4, 1400, inner), ICMP, source=GATEWAY)


SENT = ip4(HOST, OTHER_HOST, tcp(SPORT, FAR_PORT, "A")[:8], TCP)
SERVED = ip4(HOST, STRANGER, tcp(MY_PORT, SPORT, "A")[:8], TCP)
ERRORS = [
    *(row(f"type {kind}, about a client's packet", about(SENT, kind), REDIRECT, given=[OPEN])
      for kind in (3, 11, 12)),
    row("about a server's packet", about(SERVED), REDIRECT),
    *(row(f"type {kind}, which is no error, or none to believe", about(SENT, kind), OK,
          given=[OPEN]) for kind in (0, 4, 5, 8, 13)),
    row("about a connection of the host's own", about(SENT), OK),
    row("about nobody's port", about(ip4(HOST, STRANGER, tcp(FREE_PORT, SPORT)[:8], TCP)), OK),
    *(row(f"about {why}", about(inner), OK, given=[OPEN]) for why, inner in (
        ("a packet of somebody else", ip4(STRANGER, OTHER_HOST, tcp(SPORT, FAR_PORT), TCP)),
        ("UDP", ip4(HOST, OTHER_HOST, udp(sport=SPORT, dport=FAR_PORT), UDP)),
        ("a packet with options", ip4(HOST, OTHER_HOST, tcp(SPORT, FAR_PORT), TCP,
                                      options=b"\1" * 4)),
        ("a packet without ports", SENT[:23]), ("nothing", b""))),
    row("IP options that look like an error", frame(ip4(GATEWAY, HOST, SENT, ICMP,
                                                        options=icmp(3, 4, 1400)), to=WIRE_MAC),
        OK, given=[OPEN]),
    row("an ICMP header cut short", wire(icmp(3, 4)[:7], ICMP), OK, given=[OPEN]),
    row("another host's error", wire(icmp(3, 4, 1400, SENT), ICMP, destination=STRANGER), OK,
        given=[OPEN]),
]


def probe(virtual_port: int = 0, caller_port: int = FAR_PORT, dport: int = MY_PORT, *,
          source: str = OTHER_HOST, flags: str = "S", data: bytes = b"") -> bytes:
    return wire(tcp(SPORT, dport, flags, data, option(virtual_port, caller_port), seq=77),
                source=source)


WAY = next_hop(OTHER_HOST, OTHER_HOST)
PROBES = [
    *(row(why, asked, REDIRECT, after=proof(asked), then=[WAY]) for why, asked in (
        ("a probe", probe()), ("of another network", probe(caller_port=ALIEN_PORT)),
        ("to a port that nobody owns", probe(dport=FREE_PORT)), ("with data", probe(data=b"x")),
        ("with the last sequence number", wire(tcp(
            SPORT, MY_PORT, options=option(0, FAR_PORT), seq=0xffffffff))))),
    row("from behind a gateway", asked := probe(source=BEHIND_GATEWAY), REDIRECT,
        after=proof(asked), given=[caller(BEHIND_GATEWAY, FAR_PORT, "10.32.0.88")],
        then=[next_hop(BEHIND_GATEWAY, GATEWAY)]),
    row("in nobody's name", probe(caller_port=UNKNOWN_PORT), SHOT, "probe_unknown"),
    row("by a stranger", probe(source=STRANGER), SHOT, "probe_unknown"),
    row("in nobody's name, to a port that nobody owns",
        probe(caller_port=UNKNOWN_PORT, dport=FREE_PORT), OK),
    row("to a port that is the host's", probe(dport=22), OK),
]
ASKED = Entry("probes", key(OTHER_HOST, FAR_PORT, SPORT), {"ack_be": 1001})
NOTED = Entry("probes", key(OTHER_HOST, FAR_PORT, SPORT),
              {"ack_be": 1001, "window_be": 0x5e1d, "answered": 1})
ANSWERS = [
    row("proof", wire(tcp(FAR_PORT, SPORT, "RA", ack=1001, window=0x5e1d)), SHOT,
        given=[ASKED], then=[NOTED]),
    row("a refusal of somebody else", wire(tcp(FAR_PORT, SPORT, "RA", ack=1001)), SHOT,
        given=[ASKED],
        then=[Entry("probes", NOTED.key, {"ack_be": 1001, "window_be": 0, "answered": 1})]),
    *(row(why, wire(segment), OK, given=[ASKED]) for why, segment in (
        ("another acknowledgement", tcp(FAR_PORT, SPORT, "RA", ack=1002, window=0x5e1d)),
        ("no acknowledgement", tcp(FAR_PORT, SPORT, "R", ack=1001, window=0x5e1d)),
        ("no RST", tcp(FAR_PORT, SPORT, "A", ack=1001, window=0x5e1d)),
        ("another port's", tcp(FAR_PORT, SPORT + 1, "RA", ack=1001, window=0x5e1d)))),
    row("a client's, which is no probe's", wire(tcp(FAR_PORT, SPORT, "RA", ack=1001)), REDIRECT,
        given=[ASKED, OPEN]),
]


@pytest.mark.parametrize("case", [*PASSES, *PASSES_THOUGH, *TO_CONTAINERS],
                         ids=lambda case: case.why)
def test_a_packet(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.why)
def test_an_icmp_error(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", [*PROBES, *ANSWERS], ids=lambda case: case.why)
def test_a_probe(case: Case, run: Callable[[Case], None]) -> None:
    """Of another host's driver, or the answer to one of this host's (docs/wire.md)."""
    run(case)
