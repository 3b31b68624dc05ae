"""Tests from_container with packets of the host's source address, and with foreign sources.

kernel/host.c.  A run of BPF_PROG_TEST_RUN cannot show where a redirect goes (the kernel leaves out
what follows the verdict), nor the type that a packet is given; tests/netns sees both.  Nor does it
reach the second look-up of a flow, which is for one that another CPU accepts meanwhile, and pages
behind the packet's first: what goes in is in one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.kernel.packets.case import REDIRECT, SHOT, Case, Entry, Value
from tests.kernel.packets.packets import (
    ARP,
    GRE,
    ICMP,
    MORE_FRAGMENTS,
    TCP,
    UDP,
    VLAN,
    datagram,
    frame,
    icmp,
    ip4,
    option,
    tcp,
    udp,
    unreachable,
)
from tests.kernel.packets.world import (
    ALIEN_VETH,
    BEHIND_GATEWAY,
    BEHIND_GATEWAY6,
    FAR,
    FAR_PORT,
    FOREVER,
    FREE_PORT,
    GATEWAY,
    HOST,
    ME,
    ME6,
    MINE,
    MY_PORT,
    MY_VETH,
    NEAR,
    NEAR6,
    NEAR_PORT,
    NEAR_VETH,
    NO_ROUTE,
    OTHER_HOST,
    SEEK,
    STRANGER,
    STRAY_VETH,
    THEIRS,
    flow,
    key,
    next_hop,
    syn_of,
    veth,
)

SPORT = 40000
OPEN, WAY = flow(OTHER_HOST, FAR_PORT, SPORT), next_hop(OTHER_HOST, OTHER_HOST, until_ns=FOREVER)
GOOD = option(80, MY_PORT)
NOP = b"\x01"
row = partial(Case, program="from_container", came_by=MY_VETH)


def calls(flags: str = "PA", data: bytes = b"", options: bytes = b"", words: int = 0, *,
          to: str = OTHER_HOST, dport: int = FAR_PORT) -> bytes:
    """Make a segment of ME as a client: by default of the connection OPEN."""
    return frame(ip4(HOST, to, tcp(SPORT, dport, flags, data, options, words=words), TCP))


def serves(flags: str, data: bytes = b"", sport: int = MY_PORT, to: str = OTHER_HOST) -> bytes:
    """Make a segment of ME as a server."""
    return frame(ip4(HOST, to, tcp(sport, SPORT, flags, data), TCP))


def other(payload: bytes, protocol: int = TCP, fragment: int = 0, first: int = 0) -> bytes:
    return frame(ip4(HOST, OTHER_HOST, payload, protocol, fragment=fragment, first=first))


SOURCES = [
    row("a neighbour's address", datagram(NEAR, FAR), SHOT, "spoofed_source"),
    row("nobody's address", datagram("8.8.8.8", NEAR), SHOT, "spoofed_source"),
    row("no address", datagram("0.0.0.0", NEAR), SHOT, "spoofed_source"),
    row("no address, of one that has none", datagram("0.0.0.0", NEAR), SHOT, "spoofed_source",
        given=[veth(MY_VETH, "0.0.0.0", sandbox=MINE)]),
    row("loopback's address", datagram("127.0.0.1", NEAR), SHOT, "spoofed_source"),
    row("its destination's own", datagram(NEAR, NEAR), SHOT, "spoofed_source"),
    row("another host's address", datagram(OTHER_HOST, FAR), SHOT, "spoofed_source"),
    row("an interface that is no endpoint's", datagram(ME, NEAR), SHOT, "unknown_veth",
        came_by=STRAY_VETH),
    row("ARP", frame(bytes(28), ARP), SHOT, "not_ip"),
    row("an unknown protocol", frame(bytes(46), 0x88CC), SHOT, "not_ip"),
    row("a frame with a length in place of a kind", frame(bytes(46), 46), SHOT, "not_ip"),
    row("a header of 19 bytes", datagram(ME, NEAR), SHOT, "malformed", cut=14 + 19),
    row("no header", datagram(ME, NEAR), SHOT, "malformed", cut=14),
    row("version 6 in an IPv4 frame", frame(ip4(ME, NEAR, udp(), first=0x65)), SHOT, "malformed"),
    row("the host's own, version 6", frame(ip4(HOST, FAR, udp(), first=0x65)), SHOT,
        "malformed"),
    row("an IPv6 header of 39 bytes", datagram(ME6, NEAR6), SHOT, "malformed", cut=14 + 39),
    row("half an IPv6 header", datagram(ME6, NEAR6), SHOT, "malformed", cut=14 + 20),
    row("a tag", datagram(ME, NEAR), SHOT, "vlan_tag", vlan=5),
    row("a tag on the host path", calls(), SHOT, "vlan_tag", vlan=5, given=[OPEN]),
    row("a tag that the device has left in", frame(bytes.fromhex("0005 0800") + ip4(ME, NEAR),
                                                   VLAN), SHOT, "not_ip"),
]
ANYTHING_BUT_WHOLE_TCP = [
    row(why, packet, SHOT, "spoofed_source", given=[OPEN]) for why, packet in (
        ("UDP", other(udp(), UDP)), ("a ping", other(icmp(8), ICMP)), ("GRE", other(b"", GRE)),
        ("a first fragment", other(tcp(SPORT, FAR_PORT, "A"), fragment=MORE_FRAGMENTS)),
        ("a later fragment", other(tcp(SPORT, FAR_PORT, "A"), fragment=3)),
        ("no TCP header", other(b"")), ("half of one", other(tcp(SPORT, FAR_PORT, "A")[:19])),
        ("an IP header that lies", other(tcp(SPORT, FAR_PORT, "A"), first=0x44)),
        ("IP options", frame(ip4(HOST, OTHER_HOST, tcp(SPORT, FAR_PORT, "A"), TCP,
                                 options=NOP * 4))))]
OF_CONNECTIONS = [
    row("data of an open one", calls("PA", b"x"), REDIRECT, given=[OPEN]),
    row("data of one that another interface carried", calls("PA", b"x"), REDIRECT,
        given=[flow(OTHER_HOST, FAR_PORT, SPORT, ifindex=NEAR_VETH)], then=[OPEN]),
    row("another sandbox's", calls(), SHOT, "foreign_flow",
        given=[flow(OTHER_HOST, FAR_PORT, SPORT, sandbox=THEIRS, ifindex=NEAR_VETH)]),
    row("an open one's, by an interface that is no endpoint's", calls(), SHOT, "unknown_veth",
        given=[OPEN], came_by=STRAY_VETH),
    row("an open one's, of a sandbox that is not finished", calls(), SHOT, "spoofed_source",
        given=[OPEN], came_by=ALIEN_VETH),
    row("data of none", calls("PA", b"x"), SHOT, "foreign_flow"),
    row("data of one to another port", calls("PA", b"x", dport=FREE_PORT), SHOT, "foreign_flow",
        given=[OPEN]),
    row("data of one to another host", calls("PA", b"x", to=STRANGER), SHOT, "foreign_flow",
        given=[OPEN]),
    row("a SYN of none", calls("S", options=GOOD), SHOT, "foreign_flow"),
    row("an ACK after the end", calls("A"), SHOT, "late_ack"),
    row("an ACK with data after the end", calls("A", b"x"), SHOT, "foreign_flow"),
    row("a FIN after the end", calls("FA"), SHOT, "foreign_flow"),
    row("a SYN-ACK to nobody", serves("SA"), SHOT, "foreign_flow"),
    row("a SYN-ACK", serves("SA"), REDIRECT, given=[syn_of(OTHER_HOST, SPORT, MY_PORT), WAY]),
    row("a refusal", serves("RA"), REDIRECT, given=[syn_of(OTHER_HOST, SPORT, MY_PORT), WAY]),
    row("a SYN that crosses one", serves("S"), SHOT, "foreign_flow",
        given=[syn_of(OTHER_HOST, SPORT, MY_PORT), WAY]),
    row("a SYN-ACK to another sandbox's caller", serves("SA"), SHOT, "foreign_flow",
        given=[syn_of(OTHER_HOST, SPORT, MY_PORT, sandbox=THEIRS), WAY]),
    row("RST from its own endpoint port", serves("R"), REDIRECT, given=[WAY]),
    row("RST-ACK from its own endpoint port", serves("RA"), REDIRECT, given=[WAY]),
    row("RST with data", serves("R", b"x"), SHOT, "foreign_flow"),
    row("RST and SYN", serves("SR"), SHOT, "foreign_flow"),
    row("RST from a neighbour's port", serves("R", sport=NEAR_PORT), SHOT, "foreign_flow"),
    row("RST from nobody's port", serves("R", sport=FREE_PORT), SHOT, "foreign_flow"),
    row("RST from a client's port", serves("R", sport=SPORT), SHOT, "foreign_flow"),
]
SYNS = [
    *(row(why, calls("S", options=options, words=words), REDIRECT, given=[OPEN])
      for why, options, words in (
        ("its own name", GOOD, 0), ("others before it", b"\2\4\5\xb4" + NOP * 28 + GOOD, 0),
        ("24 bytes behind it", GOOD + NOP * 24, 0))),
    *(row(why, calls("S", options=options, words=words), SHOT, "forged_option", given=[OPEN])
      for why, options, words in (
        ("no option", b"", 0), ("a neighbour's name", option(80, NEAR_PORT), 0),
        ("another kind", option(80, MY_PORT, kind=253), 0),
        ("another length", option(80, MY_PORT, length=6), 0),
        ("another experiment", option(80, MY_PORT, experiment=1), 0),
        ("28 bytes behind it", GOOD + NOP * 28, 0), ("a header that ends before it", GOOD, 5),
        ("a header that ends in it", GOOD, 6), ("a header that ends after the packet", GOOD, 15),
        ("a header of nothing", GOOD, 1))),
    row("with a FIN, and without an option", calls("SF"), SHOT, "forged_option", given=[OPEN]),
    row("another sandbox's connection", calls("S", options=GOOD), SHOT, "foreign_flow",
        given=[flow(OTHER_HOST, FAR_PORT, SPORT, sandbox=THEIRS)]),
]
TO_NEIGHBOUR = partial(calls, to=HOST, dport=NEAR_PORT)
ON_ONE_HOST = [
    row("data to a server", TO_NEIGHBOUR("PA"), REDIRECT, given=[flow(HOST, NEAR_PORT, SPORT)]),
    row("a SYN", TO_NEIGHBOUR("S", options=GOOD), REDIRECT, marked=SEEK,
        given=[flow(HOST, NEAR_PORT, SPORT)],
        then=[Entry("pending", key(HOST, SPORT, NEAR_PORT), {
            "sandbox": THEIRS, "vni": 1, "addr_be": NEAR, "peer_addr_be": ME, "port_be": 80,
            "assigned": 0, "ifindex": NEAR_VETH})]),
    row("a SYN to one that is kept off", syn := TO_NEIGHBOUR("S", options=GOOD), REDIRECT,
        "syn_withheld", after=unreachable(syn, 13),
        given=[flow(HOST, NEAR_PORT, SPORT), Entry("withheld", THEIRS, 1)]),
    row("a probe", TO_NEIGHBOUR("S", options=option(0, MY_PORT)), SHOT, "no_endpoint",
        given=[flow(HOST, NEAR_PORT, SPORT)]),
    row("data to nobody's port", calls(to=HOST, dport=FREE_PORT), SHOT, "no_endpoint",
        given=[flow(HOST, FREE_PORT, SPORT)]),
    row("data to a client", serves("PA", to=HOST), REDIRECT,
        given=[flow(HOST, SPORT, MY_PORT), flow(HOST, MY_PORT, SPORT, sandbox=THEIRS)]),
    row("data to a client that has gone", serves("PA", to=HOST), SHOT, "no_endpoint",
        given=[flow(HOST, SPORT, MY_PORT)]),
]


def way(why: str, to: str, found: str | int, *given: Entry, same: bool = False) -> Case:
    """Make a row of a connection that needs a next hop; same: the one in `given` is still good."""
    unknown = flow(to, FAR_PORT, SPORT, next_hop_until_ns=0, next_hop_be=0)
    until: dict[str, Value] = {"next_hop_until_ns": FOREVER} if same else {}
    return row(why, calls(to=to), REDIRECT, given=[unknown, *given],
               then=[Entry("flows", key(to, FAR_PORT, SPORT), {"next_hop_be": found, **until}),
                     *([] if same else [next_hop(to, found)])])


NEXT_HOPS = [
    way("on the link", OTHER_HOST, OTHER_HOST),
    way("by a gateway", BEHIND_GATEWAY, GATEWAY),
    way("by an IPv6 gateway, which the kernel has to find", BEHIND_GATEWAY6, 0),
    way("no route, which the kernel has to say", NO_ROUTE, 0),
    way("known from another connection", OTHER_HOST, GATEWAY,
        next_hop(OTHER_HOST, GATEWAY, until_ns=FOREVER), same=True),
    way("known for too long", OTHER_HOST, OTHER_HOST, next_hop(OTHER_HOST, GATEWAY, until_ns=1)),
    row("for an answer to a SYN", serves("SA"), REDIRECT,
        given=[syn_of(OTHER_HOST, SPORT, MY_PORT)], then=[next_hop(OTHER_HOST, OTHER_HOST)]),
]


@pytest.mark.parametrize("case", [
    *SOURCES, *ANYTHING_BUT_WHOLE_TCP, *OF_CONNECTIONS, *SYNS, *ON_ONE_HOST, *NEXT_HOPS,
], ids=lambda case: case.why)
def test_a_packet(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
