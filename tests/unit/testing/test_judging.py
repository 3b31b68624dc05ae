"""Tests what is said of a round: each fault once, with the way and what to do."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest

from driver.services.testing.asking import Clock
from driver.services.testing.fault import Kind, listed
from driver.services.testing.judging import Judged, judge
from tests.unit.testing.rounds import ROUND, changed, collected, host, participant

A, B, C, D = (participant(number) for number in (1, 2, 3, 4))
SIX_C, SIX_D = (participant(number, underlay=IPv6Address(f"fd00::{number}"), ports=())
                for number in (3, 4))
NOTHING: dict[str, Any] = {
    "arrived": frozenset(), "passed": frozenset(), "whole": 0, "syns": frozenset()}


def kinds(found: Judged) -> list[Kind]:
    return [fault.kind for fault in found.faults]


def test_all_is_well() -> None:
    found = judge(collected(A, B, C))
    assert found.faults == ()
    assert found.all_well
    assert set(found.ways) == {(x.host, y.host) for x in (A, B, C) for y in (A, B, C) if x != y}
    assert not any(way.kinds for way in found.ways.values())


# What differs on the way from a to b -> the fault, and words of its line.
FAULTS: list[tuple[dict[str, Any], dict[str, Any], Kind, list[str]]] = [
    ({"rtt_us": -1}, NOTHING, Kind.CUT, ["nothing gets from a to b", "UDP 14789"]),
    ({}, {**NOTHING, "syns": frozenset({61000, 65535})}, Kind.UDP,
     ["a to b: UDP 14789 does not arrive"]),
    ({}, {"passed": frozenset()}, Kind.UDP_IN,
     ["b's own packet filter", "iptables -I INPUT -p udp --dport 14789 -j ACCEPT"]),
    ({"refused": "Operation not permitted"}, {**NOTHING, "syns": frozenset({61000, 65535})},
     Kind.UDP_OUT, ["a's own packet filter", "on a, iptables -I OUTPUT -p udp"]),
    ({}, {"passed": frozenset({64, 1024}), "damaged": frozenset({1450})}, Kind.DAMAGED,
     ["packets of 1450 bytes arrive changed", "ethtool -K eth0"]),
    ({}, {"whole": 1400}, Kind.MTU, ["more than 1400 bytes", "devices say 1500", "no router tells",
                                    "ip link set eth0 mtu 1400"]),
    ({"told_mtu": 1400}, {"whole": 1400}, Kind.MTU, ["a router tells so (1400)"]),
    ({}, {"whole": 1400, "passed": frozenset({64, 1024})}, Kind.MTU, ["fragments are lost, too"]),
    ({}, {"whole": 0}, Kind.MTU, ["\"don't fragment\""]),
    ({}, {"passed": frozenset({64, 1450})}, Kind.UDP, ["UDP 14789 of 1024 bytes"]),
    ({}, {"syns": frozenset()}, Kind.TCP, ["61000, 65535 do not arrive", "option included"]),
    ({}, {"syns": frozenset({61000})}, Kind.TCP, ["ports 65535 do not arrive"]),
    ({"syns_refused": "Operation not permitted"}, {"syns": frozenset()}, Kind.TCP,
     ["a's own packet filter", "--dport 61000:65535"]),
    ({}, {"syns": frozenset(), "stripped": frozenset({61000, 65535})}, Kind.OPTION,
     ["a middlebox strips TCP option 254"]),
    ({"trouble": "it answers pings, but no SYN"}, {}, Kind.PROBES, ["it answers pings, but"]),
    ({}, {"seen_as": "192.0.2.1"}, Kind.NAT, ["come from 192.0.2.1", "without NAT"]),
]


@pytest.mark.parametrize(("sent", "heard", "kind", "words"), FAULTS)
def test_one_way_is_bad(sent: dict[str, Any], heard: dict[str, Any], kind: Kind, words: list[str]
                        ) -> None:
    found = judge(changed(collected(A, B, C), A, B, sent=sent, heard=heard))
    assert kinds(found) == [kind]
    (fault,) = found.faults
    assert fault.ways == ((A.host, B.host),)
    for each in words:
        assert each in fault.text
    assert not found.all_well
    assert [ends for ends, way in found.ways.items() if way.kinds] == [(A.host, B.host)]


def test_no_pings_are_a_hint() -> None:
    found = judge(changed(collected(A, B), A, B, sent={"rtt_us": -1}))
    assert kinds(found) == [Kind.PING]
    assert found.all_well


def test_one_cause_is_one_line() -> None:
    """A firewall of b that drops what both others send."""
    found = collected(A, B, C)
    for sender in (A, C):
        found = changed(found, sender, B, heard={"passed": frozenset()})
    (fault,) = judge(found).faults
    assert fault.text.startswith("a, c to b: ")
    assert fault.ways == ((A.host, B.host), (C.host, B.host))


def test_a_cause_at_the_sender_is_one_line_too() -> None:
    found = collected(A, B, C, D)
    for receiver in (B, C, D):
        found = changed(found, A, receiver, heard={"syns": frozenset()})
    found = changed(found, C, B, heard={"syns": frozenset()})
    assert [fault.text.partition(": ")[0] for fault in judge(found).faults] == [
        "a to b, c, d", "c to b"]


def test_a_cause_everywhere_is_one_line() -> None:
    found = collected(A, B, C)
    for sender in (A, B, C):
        for receiver in {A, B, C} - {sender}:
            found = changed(found, sender, receiver, heard={"passed": frozenset()})
    (fault,) = judge(found).faults
    assert fault.text.startswith("a, b, c to a, b, c: ")
    assert len(fault.ways) == 6


def test_names_are_in_peoples_order() -> None:
    assert listed(["h10", "h9", "h1", "x", "h9b", "h9a2", "h9a10", "10"]) == (
        "10, h1, h9, h9a2, h9a10, 3 more")


def test_hosts_that_do_not_answer() -> None:
    old, hung = participant(4, version=""), participant(5)
    found = judge(collected(A, B, C, silent=[old, hung], absent=[participant(6)],
                            unfinished=[C]))
    assert [(fault.kind, fault.text.split(" (")[0]) for fault in found.faults] == [
        (Kind.NO_DRIVER, "f"), (Kind.NO_ANSWER, "d"), (Kind.NO_ANSWER, "e"),
        (Kind.UNFINISHED, "c")]
    assert "slim forget-host f" in found.faults[0].text
    assert "too old" in found.faults[1].text
    assert "(1.0) is alive and does not answer" in found.faults[2].text
    assert set(found.ways) == {(A.host, B.host), (B.host, A.host)}


def test_hosts_of_two_families() -> None:
    """No fault: between them nothing passes by design, and each family is tested by itself."""
    found = judge(collected(A, B, SIX_C, SIX_D))
    assert kinds(found) == [Kind.FAMILIES]
    assert "underlays of a, b are IPv4, those of c, d IPv6" in found.faults[0].text
    assert found.all_well
    assert set(found.ways) == {(A.host, B.host), (B.host, A.host), (SIX_C.host, SIX_D.host),
                               (SIX_D.host, SIX_C.host)}
    assert found.are_apart(A.host, SIX_C.host)
    assert not found.are_apart(SIX_C.host, SIX_D.host)


def test_a_host_of_the_other_family_that_does_not_answer() -> None:
    found = judge(collected(A, B, silent=[SIX_C], absent=[SIX_D]))
    assert kinds(found) == [Kind.NO_DRIVER, Kind.NO_ANSWER, Kind.FAMILIES]
    assert "d (fd00::4): no driver" in found.faults[0].text
    assert found.are_apart(SIX_D.host, A.host)


SIX: list[tuple[dict[str, Any], dict[str, Any], Kind, list[str]]] = [
    ({"rtt_us": -1}, NOTHING, Kind.CUT, ["Let UDP 14789 and ICMPv6 pass"]),
    ({}, NOTHING, Kind.UDP, ["UDP 14789 does not arrive"]),
    ({}, {"passed": frozenset()}, Kind.UDP_IN, ["on d, ip6tables -I INPUT -p udp"]),
    ({"refused": "Operation not permitted"}, NOTHING, Kind.UDP_OUT, ["on c, ip6tables -I OUTPUT"]),
    ({}, {"passed": frozenset({64, 1024}), "damaged": frozenset({1430})}, Kind.DAMAGED,
     ["packets of 1430 bytes arrive changed"]),
    ({"told_mtu": 1400}, {"whole": 1400, "passed": frozenset({64, 1024})}, Kind.MTU,
     ["a router tells so (1400), and the driver follows"]),
    ({}, {"whole": 1400, "passed": frozenset({64, 1024})}, Kind.MTU,
     ["no router tells so", "ICMPv6 \"packet too big\""]),
]


@pytest.mark.parametrize(("sent", "heard", "kind", "words"), SIX)
def test_one_way_over_ipv6_is_bad(sent: dict[str, Any], heard: dict[str, Any], kind: Kind,
                                  words: list[str]) -> None:
    found = judge(changed(collected(SIX_C, SIX_D), SIX_C, SIX_D, sent=sent, heard=heard))
    assert kinds(found) == [kind]
    for each in words:
        assert each in found.faults[0].text
    assert "TCP" not in found.faults[0].text
    assert "fragments" not in found.faults[0].text


def test_endpoint_ports_over_ipv6_are_tested_where_there_are_any() -> None:
    c, d = (replace(each, ports=(61000, 65535)) for each in (SIX_C, SIX_D))
    assert judge(collected(c, d)).all_well
    found = judge(changed(collected(c, d), c, d, heard={"syns": frozenset()}))
    assert kinds(found) == [Kind.TCP]


HOSTS: list[tuple[dict[str, Any], Kind, str]] = [
    ({"guard": "missing: no nf_tables"}, Kind.GUARD, "b: the guard is not in force (missing: no"),
    ({"etcd_us": 2_000_000}, Kind.ETCD, "b: etcd answers in 2000 ms"),
    ({"version": "0.9"}, Kind.VERSIONS, "(1.0, maps v2: a, c; 0.9, maps v2: b): upgrade"),
    ({"vxlan_port": 4790}, Kind.PORTS, "(14789: a, c; 4790: b): give all the same --vxlan-port"),
    ({"mtu": 9000}, Kind.MTUS, "(1500: a, c; 9000: b)"),
]


@pytest.mark.parametrize(("what", "kind", "words"), HOSTS)
def test_a_host_is_not_like_the_others(what: dict[str, Any], kind: Kind, words: str) -> None:
    found = judge(collected(A, participant(2, **what), C))
    assert kinds(found) == [kind]
    assert words in found.faults[0].text


@pytest.mark.parametrize(("at", "words"), [
    (Clock(41.9, 42.1), "c: its clock is 42 s ahead of most other hosts'"),
    (Clock(-5.1, -4.9), "c: its clock is 5 s behind most other hosts'")])
def test_a_clock_is_off(at: Clock, words: str) -> None:
    found = collected(A, B, C)
    (fault,) = judge(replace(found, clocks={**found.clocks, C.host: at})).faults
    assert fault.text.startswith(words)


def test_a_clock_that_was_measured_badly_may_be_right() -> None:
    found = collected(A, B, C)
    assert judge(replace(found, clocks={**found.clocks, C.host: Clock(-9.0, 0.5)})).all_well


def test_of_two_clocks_one_is_named() -> None:
    found = collected(A, B)
    (fault,) = judge(replace(found, clocks={A.host: Clock(-0.1, 0.1),
                                            B.host: Clock(9.9, 10.1)})).faults
    assert "b: its clock is 10 s ahead of the other host's" in fault.text


def test_hosts_of_one_name_are_told_apart() -> None:
    other = participant(2, name="a")
    found = judge(changed(collected(A, other), A, other, heard={"passed": frozenset()}))
    assert found.faults[0].text.startswith("a/000000000000 to a/000000000000")
    assert found.names[A.host] != "a"


def test_only_what_concerns_the_focus() -> None:
    """Another host's clock and guard are not what was asked for, another one's absence neither."""
    guardless = participant(3, guard="missing")
    found = judge(collected(A, B, guardless, asked=replace(ROUND, focus=A.host),
                            absent=[participant(6)]))
    assert found.faults == ()
    assert set(found.ways) == {(A.host, B.host), (B.host, A.host), (A.host, C.host),
                               (C.host, A.host)}
    found = judge(collected(A, B, C, asked=replace(ROUND, focus=A.host, one_way=True),
                            absent=[participant(6)]))
    assert kinds(found) == [Kind.NO_DRIVER]
    assert set(found.ways) == {(A.host, B.host), (A.host, C.host)}


def test_what_hosts_say_reaches_no_terminal_and_no_shell() -> None:
    bad = participant(2, name="b\x1b[2J; reboot", device="eth0;reboot", guard="missing: \x07\n!")
    found = collected(A, bad, absent=[participant(3, name="c;reboot")])
    found = changed(found, A, bad, heard={"whole": 1400})
    found = changed(found, bad, A, heard={"whole": 1400})
    for fault in judge(found).faults:
        assert fault.text.isprintable()
        assert "mtu 1400" not in fault.text or "set 'eth0;reboot' mtu" in fault.text or (
            "set eth0 mtu" in fault.text)
        assert "forget-host c;" not in fault.text


def test_a_host_with_an_absurd_mtu_harms_nobody() -> None:
    assert judge(collected(A, participant(2, mtu=0))).faults != ()
    assert host(A).version == "1.0"
