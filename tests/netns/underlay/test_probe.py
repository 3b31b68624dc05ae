"""Tests probing for signs of life: any answer is one; the network may say that nobody is there."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from driver.link.underlay.probe import UnderlayProber
from driver.services.ports import Presence
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns, join

HERE, PEER, NOBODY, BEYOND = (IPv4Address(f"198.18.9.{n}") for n in (1, 2, 3, 200))


@pytest.fixture
def peer(make_netns: Callable[[str], Netns]) -> tuple[Netns, Netns]:
    here, there = make_netns("here"), make_netns("there")
    join(here, "eth0", there, "eth0")
    here.ip(f"addr add {HERE}/25 dev eth0")
    here.ip(f"route add {BEYOND} via {PEER}")
    there.ip(f"addr add {PEER}/25 dev eth0")
    return here, there


def probe(here: Netns, prober: UnderlayProber, *hosts: IPv4Address) -> dict[IPv4Address, Presence]:
    # Sockets keep the namespace in which they were opened.
    return here.call(lambda: prober.probe(hosts, 0.3))


@pytest.mark.parametrize("answers", ["everything", "echo", "datagrams", "nothing"])
def test_a_host_that_answers(peer: tuple[Netns, Netns], answers: str) -> None:
    here, there = peer
    if answers in ("datagrams", "nothing"):
        there.sysctl("ipv4.icmp_echo_ignore_all", 1)
    if answers in ("echo", "nothing"):
        there.run("iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP")
    prober = UnderlayProber()
    expected = Presence.SILENT if answers == "nothing" else Presence.ANSWERED
    assert probe(here, prober, PEER) == {PEER: expected}
    prober.close()


def test_a_refusal_is_an_answer(peer: tuple[Netns, Netns]) -> None:
    here, there = peer
    there.run("iptables", "-A", "INPUT", "-j", "REJECT", "--reject-with", "icmp-host-prohibited")
    prober = UnderlayProber()
    assert probe(here, prober, PEER) == {PEER: Presence.ANSWERED}
    prober.close()


def test_nobody_is_there(peer: tuple[Netns, Netns]) -> None:
    here, there = peer
    there.sysctl("ipv4.ip_forward", 1)
    there.ip("route add unreachable 198.18.9.200")
    prober = UnderlayProber()

    seen: set[tuple[IPv4Address, Presence]] = set()

    def absent() -> bool:  # ARP takes seconds, and routers do not always say it
        seen.update(probe(here, prober, PEER, NOBODY, BEYOND).items())
        return {(NOBODY, Presence.ABSENT), (BEYOND, Presence.ABSENT)} <= seen

    wait_until(absent, 30, "ARP, and the router, to say that nobody is there")
    assert not {(NOBODY, Presence.ANSWERED), (BEYOND, Presence.ANSWERED)} & seen
    assert (PEER, Presence.ANSWERED) in seen
    there.ip(f"addr add {NOBODY}/25 dev eth0")
    wait_until(lambda: probe(here, prober, NOBODY) == {NOBODY: Presence.ANSWERED}, 30,
               "it to be seen when it comes")
    prober.close()


def test_a_cable_that_is_out(peer: tuple[Netns, Netns]) -> None:
    here, _ = peer
    prober = UnderlayProber()
    assert probe(here, prober, PEER) == {PEER: Presence.ANSWERED}
    here.ip("link set eth0 down")
    assert probe(here, prober, PEER) == {PEER: Presence.ABSENT}
    prober.close()
