"""Tests that what is refused is found by container, however much it is, with the real kernel."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

from tests.netns.attacks.attack import endpoint, frame, mac, segment, send, syn_option
from tests.netns.seeing.follower import Watch, watching
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine

MANY = 3000
TOLD = 8  # REFUSALS_TOLD in kernel/events.c


@pytest.fixture
def here(machines: list[Machine]) -> Container:
    """A container whose refusals of earlier tests are forgotten."""
    container = machines[0].container("10.32.0.2/16")
    container.machine.loaded.table("refused").clear()
    return container


@pytest.fixture
def watch(here: Container, caplog: pytest.LogCaptureFixture) -> Iterator[Watch]:
    with caplog.at_level(logging.INFO, "slim.refused"), watching(here.machine) as made:
        yield made


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "slim.refused"]


def test_a_forged_packet(here: Container, watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    send(here, segment("10.32.0.66", 1000, "10.32.0.9", 80))
    found = watch.refused("spoofed_source")
    name = here.endpoints[0][0].id[:12]
    assert (found.container, str(found.own), str(found.peer), found.peer_port, found.count) == (
        name, here.address, "10.32.0.9", 80, 1)
    wait_until(lambda: _lines(caplog), 10, "a line in the log")
    assert _lines(caplog) == [
        f"refused {name} -> 10.32.0.9:80: spoofed_source: source address is not the endpoint's own"]
    assert caplog.records[-1].levelno == logging.WARNING


def test_of_any_protocol(here: Container, watch: Watch) -> None:
    send(here, IP(src="10.32.0.66", dst="10.32.0.9") / UDP(sport=5, dport=53))
    assert watch.refused("spoofed_source", lambda each: each.peer_port == 53).count == 1
    send(here, IPv6(src="fd00::9", dst="fd00::3") / ICMPv6EchoRequest())
    found = watch.refused("spoofed_source", lambda each: str(each.peer) == "fd00::3")
    assert (found.own, found.peer_port) == (None, 0)  # it has no IPv6 address


def test_a_syn_from_nowhere(machines: list[Machine], here: Container, watch: Watch,
                            caplog: pytest.LogCaptureFixture) -> None:
    """A stranger on the underlay tries an endpoint port; and in the name of nobody."""
    to, stranger = endpoint(here), machines[1]
    source = str(stranger.underlay)
    for options in ([], syn_option(80, 61999)):
        send(stranger.netns, frame(segment(source, 4000, str(to.underlay), to.port,
                                           options=options),
                                   destination=mac(here.machine.netns)))
    bare = watch.refused("syn_no_option")
    assert (bare.inbound, str(bare.own), bare.own_port, str(bare.peer)) == (
        True, here.address, 0, source)
    named = watch.refused("syn_unknown_caller")
    assert (named.own_port, str(named.peer)) == (80, source)
    wait_until(lambda: len(_lines(caplog)) >= 2, 10, "two lines in the log")
    assert f"refused {bare.container} <- {source}: syn_no_option" in _lines(caplog)[0]


def test_a_flood(machines: list[Machine], here: Container, watch: Watch,
                 caplog: pytest.LogCaptureFixture) -> None:
    """The driver hears of a few packets a second, the log has a few lines, the count is right."""
    began_s = time.monotonic()
    send(here, [segment("10.32.0.66", 1000, str(IPv4Address(0x0a200100 + number)), 80)
                for number in range(MANY)])
    other = machines[0].container("10.32.0.5/16")
    send(other, segment("10.32.0.66", 1000, "10.32.0.9", 80))
    name = here.endpoints[0][0].id[:12]
    watch.refused("spoofed_source", lambda each: str(each.own) == other.address)
    seconds = int(time.monotonic() - began_s) + 1
    mine = [each for each in watch.refusals.last() if each.container == name]
    assert 0 < len(mine) <= 6  # five by address, and one for all others
    table = here.machine.loaded.table("refused")
    by_cookie = {int(key.sandbox): table[key] for key in table}
    assert by_cookie[here.netns.cookie].told <= TOLD
    assert sum(each.count for each in mine) + by_cookie[here.netns.cookie].more == MANY
    lines = [line for line in _lines(caplog) if name in line]
    assert 0 < len(lines) <= 6 * (seconds // 60 + 1)

    def all_counted() -> bool:
        sent.append(1)
        send(here, segment("10.32.0.66", 1000, "10.32.0.9", 80))
        return sum(each.count for each in watch.refusals.last()
                   if each.container == name) >= MANY

    sent: list[int] = []
    wait_until(all_counted, 20, "the rest comes with the next one that is told")
