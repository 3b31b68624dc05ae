"""Tests from_container_direct, the hook at the sender's own end of a netkit pair.

kernel/host.c and overlay.c.  What goes to another host leaves from here; whatever else there is,
refusals among it, crosses to the host's end unchanged and uncounted, for from_container to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.kernel.packets.case import OK, REDIRECT, Ago, Case
from tests.kernel.packets.packets import (
    ARP,
    TCP,
    UDP,
    addressed,
    datagram,
    frame,
    icmp,
    ip4,
    option,
    tcp,
    udp,
)
from tests.kernel.packets.world import (
    ALIEN_VETH,
    BROADCAST,
    FAR,
    FAR6,
    FAR_MAC,
    FAR_PORT,
    FOREVER,
    GONE,
    GROUP6,
    HOST,
    ME,
    ME6,
    MY_PORT,
    MY_VETH,
    NEAR,
    NEAR6,
    NEAR_PORT,
    NOBODY,
    NOBODY6,
    OTHER_HOST,
    STRAY_VETH,
    SUBNET_BROADCAST,
    THEIRS,
    VIP,
    attempt,
    flow,
    next_hop,
    syn_of,
)

SPORT = 40000
OPEN, WAY = flow(OTHER_HOST, FAR_PORT, SPORT), next_hop(OTHER_HOST, OTHER_HOST, until_ns=FOREVER)
row = partial(Case, program="from_container_direct", came_by=MY_VETH)


def calls(flags: str, options: bytes = b"", to: str = OTHER_HOST, dport: int = FAR_PORT) -> bytes:
    return frame(ip4(HOST, to, tcp(SPORT, dport, flags, options=options), TCP))


def serves(flags: str) -> bytes:
    return frame(ip4(HOST, OTHER_HOST, tcp(MY_PORT, SPORT, flags), TCP))


LEAVES = [
    row("data of an open connection", calls("A"), REDIRECT, given=[OPEN]),
    row("a SYN in its own name", calls("S", option(80, MY_PORT)), REDIRECT, given=[OPEN]),
    row("a SYN-ACK", serves("SA"), REDIRECT, given=[syn_of(OTHER_HOST, SPORT, MY_PORT), WAY]),
    row("RST from its own endpoint port", serves("R"), REDIRECT, given=[WAY]),
    row("to another host's container", one := datagram(ME, FAR), REDIRECT,
        "overlay_sent by_device", after=addressed(one, FAR_MAC), given=[WAY]),
    row("the same with IPv6", one := datagram(ME6, FAR6), REDIRECT,
        "overlay_sent by_device", after=addressed(one, FAR_MAC), given=[WAY]),
]
CROSSES = [row(why, packet, OK, came_by=ifindex) for ifindex, packets in (
    (MY_VETH, (
        ("a foreign source", datagram(NEAR, FAR)), ("ARP", frame(bytes(28), ARP)),
        ("a foreign IPv6 source", datagram(NEAR6, FAR6)),
        ("an IPv6 link-local source", datagram("fe80::1", FAR6)),
        ("no IPv6 source", datagram("::", FAR6)),
        ("no connection's data", calls("PA")), ("no connection's last ACK", calls("A")),
        ("the host's source, not TCP", frame(ip4(HOST, OTHER_HOST, udp(), UDP))),
        ("to a container beside it", datagram(ME, NEAR)),
        ("the same with IPv6", datagram(ME6, NEAR6)), ("to all", datagram(ME, BROADCAST)),
        ("to the subnet", datagram(ME, SUBNET_BROADCAST)),
        ("to an IPv6 group", datagram(ME6, GROUP6)),
        ("a ping of a service", frame(ip4(ME, VIP, icmp(8), 1))),
        ("to nobody", datagram(ME, NOBODY)), ("to nobody with IPv6", datagram(ME6, NOBODY6)),
        ("to one that has gone from here", datagram(ME, GONE)))),
    (STRAY_VETH, (
        ("an interface that is no endpoint's", datagram(ME, FAR)),
        ("the host's source, by such an interface", calls("PA")))),
    (ALIEN_VETH, (("the host's source, before the sandbox is finished", calls("PA")),)),
) for why, packet in packets]
CROSSES_THOUGH = [
    row("a tag", datagram(ME, FAR), OK, vlan=5),
    row("a header cut short", datagram(ME, FAR), OK, cut=14 + 19),
    row("an IPv6 header cut short", datagram(ME6, FAR6), OK, cut=14 + 39),
    row("an open connection, to the host itself", calls("A", to=HOST, dport=NEAR_PORT), OK,
        given=[flow(HOST, NEAR_PORT, SPORT)]),
    row("another sandbox's connection", calls("A"), OK,
        given=[flow(OTHER_HOST, FAR_PORT, SPORT, sandbox=THEIRS, ifindex=99)]),
    row("a SYN in another name", calls("S", option(80, NEAR_PORT)), OK, given=[OPEN]),
    row("nobody, who was tried 3 s ago", datagram(ME, NOBODY), OK,
        given=[attempt(NOBODY, first_ns=Ago(4), last_ns=Ago(1))]),
]


@pytest.mark.parametrize("case", LEAVES, ids=lambda case: case.why)
def test_what_leaves_at_once(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", [*CROSSES, *CROSSES_THOUGH], ids=lambda case: case.why)
def test_what_crosses_to_the_hosts_end(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
