"""Tests which packets of the host path get into a container, and which SYNs are let in.

kernel/deliver.c, by from_wire; where it is asked by to_neighbour(): test_host_packets.py.  What a
run cannot reach: no memory for a SYN (pending_full).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pytest

from driver.datapath.code.reasons import read_reasons
from tests.kernel.packets.case import OK, REDIRECT, SHOT, Case, Entry
from tests.kernel.packets.harness import Kernel
from tests.kernel.packets.packets import TCP, frame, ip4, option, tcp, unreachable
from tests.kernel.packets.world import (
    ALIEN_PORT,
    FAR,
    FAR6,
    FAR_PORT,
    FREE_PORT,
    HOST,
    ME,
    ME6,
    MINE,
    MY_PORT,
    MY_VETH,
    NEAR_PORT,
    OTHER_HOST,
    PORT_FIRST,
    PORT_LAST,
    SEEK,
    STRANGER,
    UNKNOWN_PORT,
    WIRE,
    WIRE_MAC,
    caller6,
    flow,
    key,
    port,
    takes_ipv6,
)

SPORT = 40000
EXPERIMENT6 = 0x5e16  # the endpoints' IPv6 addresses are meant
GOOD, GOOD6 = option(80, FAR_PORT), option(80, FAR_PORT, experiment=EXPERIMENT6)
NOP = b"\x01"
NOTE_KEYS, NOTE_RULES, NOTE_IPV6_OPTIONS = 1, 2, 8
LOOKING = 0x10000  # in `withheld`, beside the reason
row = partial(Case, program="from_wire", came_by=WIRE)


def sent(flags: str = "S", options: bytes = GOOD, dport: int = MY_PORT, words: int = 0,
         source: str = OTHER_HOST) -> bytes:
    """Make a segment from another host."""
    return frame(ip4(source, HOST, tcp(SPORT, dport, flags, options=options, words=words), TCP),
                 to=WIRE_MAC)


def remembered(**leaf: int) -> Entry:
    """Return what `pending` has of the SYN afterwards."""
    return Entry("pending", key(OTHER_HOST, SPORT, MY_PORT), {
        "sandbox": MINE, "vni": 1, "addr_be": ME, "peer_addr_be": FAR, "port_be": 80,
        "assigned": 0, "ipv6": 0, "ifindex": MY_VETH, **leaf})


def owned(number: int, *, assigned: int = 0) -> Entry:
    return port(number, ME, MINE, MY_VETH, assigned=assigned)


SEGMENTS = [
    row("data to an endpoint port", sent("A", b""), REDIRECT),
    row("an ACK that may answer a cookie", sent("A", b""), REDIRECT, marked=SEEK,
        given=[owned(MY_PORT, assigned=1)]),
    row("data to nobody's port", sent("A", b"", FREE_PORT), OK),
    row("to the first endpoint port", sent("A", b"", PORT_FIRST), REDIRECT,
        given=[owned(PORT_FIRST)]),
    row("to the last endpoint port", sent("A", b"", PORT_LAST), REDIRECT,
        given=[owned(PORT_LAST)]),
    row("below the first, where no port has an owner", sent("A", b"", PORT_FIRST - 1), OK),
    row("above the last", sent("A", b"", PORT_LAST + 1), OK),
    row("a client's port below the first", sent("A", b"", PORT_FIRST - 1), REDIRECT,
        given=[flow(OTHER_HOST, SPORT, PORT_FIRST - 1)]),
    row("a client's port above the last", sent("A", b"", PORT_LAST + 1), REDIRECT,
        given=[flow(OTHER_HOST, SPORT, PORT_LAST + 1)]),
    row("a port in between, whatever flow there is", sent("A", b"", FREE_PORT), OK,
        given=[flow(OTHER_HOST, SPORT, FREE_PORT)]),
    row("a SYN-ACK to an endpoint port", sent("SA", b""), REDIRECT),
    row("a mark of somebody else", sent("A", b""), REDIRECT, mark=7, marked=7),
]
LET_IN = [row(why, sent(options=options), REDIRECT, marked=SEEK, then=[remembered()])
          for why, options in (
              ("an option alone", GOOD), ("the last of several", b"\2\4\5\xb4\4\2\1\1" + GOOD),
              ("at the end of a full header", NOP * 32 + GOOD),
              ("one behind it", GOOD + NOP * 4), ("24 bytes behind it", GOOD + NOP * 24),
              ("another before it, of which the last counts", option(9, ALIEN_PORT) + GOOD))]
LET_IN_THOUGH = [
    row("SYN and FIN", sent("SF"), REDIRECT, marked=SEEK, then=[remembered()]),
    row("an asked-for listener that must be assigned", sent(), REDIRECT, marked=SEEK,
        given=[owned(MY_PORT, assigned=1)], then=[remembered()]),
    row("a connection with that name", sent(), REDIRECT, marked=SEEK,
        given=[flow(OTHER_HOST, SPORT, MY_PORT)], then=[remembered()]),
    row("a SYN with that name before", sent(), REDIRECT, marked=SEEK,
        given=[remembered(port_be=81, assigned=1)], then=[remembered()]),
    row("the highest virtual port", sent(options=option(65535, FAR_PORT)), REDIRECT, marked=SEEK,
        then=[remembered(port_be=65535)]),
]
REFUSED = [row(why, sent(options=options, words=words, source=source), SHOT, reason)
           for reason, cases in (
    ("syn_no_option", (
        ("no option", b"", 0, OTHER_HOST), ("a stranger", b"", 0, STRANGER),
        ("another kind", option(80, FAR_PORT, kind=253), 0, OTHER_HOST),
        ("another length", option(80, FAR_PORT, length=12), 0, OTHER_HOST),
        ("another experiment", option(80, FAR_PORT, experiment=0x5e1e), 0, OTHER_HOST),
        ("an option cut short", GOOD[:4], 0, OTHER_HOST),
        ("28 bytes behind it", GOOD + NOP * 28, 0, OTHER_HOST),
        ("an option behind the header", GOOD, 5, OTHER_HOST),
        ("an option half behind the header", GOOD, 6, OTHER_HOST),
        ("a header longer than the packet", GOOD, 15, OTHER_HOST),
        ("a header of nothing", GOOD, 1, OTHER_HOST))),
    ("syn_unknown_caller", (
        ("nobody's name", option(80, UNKNOWN_PORT), 0, OTHER_HOST),
        ("the callee's name", option(80, MY_PORT), 0, OTHER_HOST),
        ("a stranger with a caller's name", GOOD, 0, STRANGER))),
    ("syn_other_network", (
        ("one of another network", option(80, ALIEN_PORT), 0, OTHER_HOST),)),
) for why, options, words, source in cases]
TO_NOBODY = [row(f"{why}, to nobody's port", sent(options=options, dport=FREE_PORT), OK)
             for why, options in (
    ("no option", b""), ("a caller", GOOD), ("nobody's name", option(80, UNKNOWN_PORT)),
    ("another network's name", option(80, ALIEN_PORT)))]


def reason(name: str) -> int:
    return [each.name for each in read_reasons()].index(name)


def kept_off(why: str, name: str, told: bool, *given: Entry, also: int = 0,
             options: bytes = GOOD) -> Case:
    """Make a row of a SYN to a container that takes none on the host path now."""
    syn = sent(options=options)
    return row(why, syn, REDIRECT if told else SHOT, "syn_withheld",
               after=unreachable(syn, 13) if told else None,
               given=[Entry("withheld", MINE, reason(name) | also), *given])


def note(what: int) -> Entry:
    return Entry("notes", MINE, {"what": what})


WITHHELD = [
    kept_off("for good", "switched_off", True),
    kept_off("by its own rules", "own_rules", True),
    kept_off("by rules that the driver looks at", "own_rules", False, note(NOTE_RULES)),
    kept_off("by rules, while the driver looks at keys", "own_rules", True, note(NOTE_KEYS)),
    kept_off("by keys, while the driver looks at rules", "keys", True, note(NOTE_RULES)),
    kept_off("by rules that it is just looking at", "own_rules", False, also=LOOKING),
    kept_off("by these, and there are keys", "own_rules", False, note(NOTE_KEYS), also=LOOKING),
    kept_off("by these, and IPv6 is meant", "own_rules", False, also=LOOKING, options=GOOD6),
    kept_off("until its routes are back", "routing_lost", False),
    row("and its open connections go on", sent("A", b""), REDIRECT,
        given=[Entry("withheld", MINE, reason("keys"))]),
    row("and a neighbour of it is not", sent(dport=NEAR_PORT), REDIRECT, marked=SEEK,
        given=[Entry("withheld", MINE, reason("keys"))],
        then=[Entry("pending", key(OTHER_HOST, SPORT, NEAR_PORT), {"peer_addr_be": FAR})]),
    row("and a stranger does not hear of it", sent(source=STRANGER), SHOT, "syn_unknown_caller",
        given=[Entry("withheld", MINE, reason("keys"))]),
]


CALLER6, CALLEE6 = caller6(FAR, FAR6), takes_ipv6(MINE, ME6)
IPV6 = [
    row("between two that take it", sent(options=GOOD6), REDIRECT, marked=SEEK,
        given=[CALLER6, CALLEE6], then=[remembered(ipv6=1)]),
    row("one of before may be another family's", sent(options=GOOD6), REDIRECT, marked=SEEK,
        given=[CALLER6, CALLEE6, remembered()], then=[remembered(ipv6=1)]),
    row("IPv4 between these", sent(), REDIRECT, marked=SEEK, given=[CALLER6, CALLEE6],
        then=[remembered()]),
    row("IPv4 to one with IPv6 options", sent(), REDIRECT, marked=SEEK,
        given=[note(NOTE_IPV6_OPTIONS)], then=[remembered()]),
    row("a caller without IPv6", sent(options=GOOD6), SHOT, "syn_unknown_caller",
        given=[CALLEE6]),
    row("a caller with IPv6 in another network", sent(options=GOOD6), SHOT, "syn_unknown_caller",
        given=[CALLEE6, caller6(FAR, FAR6, vni=2)]),
    row("a callee without IPv6", sent(options=GOOD6), REDIRECT, "syn_withheld", given=[CALLER6],
        after=unreachable(sent(options=GOOD6), 13)),
    row("a callee with IPv6 in another network", sent(options=GOOD6), REDIRECT, "syn_withheld",
        given=[CALLER6, takes_ipv6(MINE, ME6, vni=2)],
        after=unreachable(sent(options=GOOD6), 13)),
    row("a callee with IPv6 options", sent(options=GOOD6), REDIRECT, "syn_withheld",
        given=[CALLER6, CALLEE6, note(NOTE_IPV6_OPTIONS)],
        after=unreachable(sent(options=GOOD6), 13)),
    row("nobody's name", sent(options=option(80, UNKNOWN_PORT, experiment=EXPERIMENT6)), SHOT,
        "syn_unknown_caller", given=[CALLER6, CALLEE6]),
    row("another network's", sent(options=option(80, ALIEN_PORT, experiment=EXPERIMENT6)), SHOT,
        "syn_other_network", given=[CALLER6, CALLEE6]),
]


@pytest.mark.parametrize("case", IPV6, ids=lambda case: case.why)
def test_a_syn_that_means_ipv6(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", SEGMENTS, ids=lambda case: case.why)
def test_a_segment(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", [*LET_IN, *LET_IN_THOUGH], ids=lambda case: case.why)
def test_a_syn_that_is_let_in(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", [*REFUSED, *TO_NOBODY], ids=lambda case: case.why)
def test_a_syn_that_is_not(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.mark.parametrize("case", WITHHELD, ids=lambda case: case.why)
def test_a_container_that_is_kept_off(case: Case, run: Callable[[Case], None]) -> None:
    run(case)


@pytest.fixture
def sockets(kernel: Kernel) -> Iterator[dict[str, socket.socket]]:
    """Open a listener and a connection, in the namespace of the packets."""
    with ExitStack() as stack:
        def make() -> dict[str, socket.socket]:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            stack.enter_context(listener.accept()[0])
            return {"listener": listener, "connection": client}

        yield kernel.netns.call(make)


@pytest.mark.parametrize(("what", "port_be", "marked"), [
    ("listener", 80, 0), ("listener", 81, SEEK), ("connection", 80, SEEK)])
def test_a_known_listener_is_not_sought(
        run: Callable[[Case], None], sockets: dict[str, socket.socket], what: str, port_be: int,
        marked: int) -> None:
    known = Entry("listeners", {"sandbox": MINE, "vni": 1, "addr_be": ME, "port_be": port_be},
                  sockets[what].fileno())
    run(replace(LET_IN[0], given=[known], marked=marked))
