"""Tests signs of life: pings first, then SYNs to endpoint ports, which firewalls let pass."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Interface, IPv6Address

import pytest

from driver.errors import DatapathError, LinkError, SlimError
from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.peers.index import PeerIndex
from driver.services.peers.signs import NOBODY, SignsOfLife
from driver.services.ports import Presence, Probe, Reply

HERE, PEER, STRANGER = (IPv4Address(f"192.0.2.{number}") for number in (1, 2, 3))
LAST = 65535


def endpoint(host: IPv4Address, port: int) -> Endpoint:
    return Endpoint(EndpointId(f"{port:064}"), NetworkId("n"), Vni(7), HostId("h"), host, bytes(6),
                    IPv4Interface("10.0.0.2/24"), None, port)


class World:
    """The network, with answers that the test chooses."""

    def __init__(self) -> None:
        self.pings: dict[IPv4Address, Presence] = {}
        self.replies: dict[Probe, Reply] = {}
        self.error: SlimError | None = None
        self.asked: list[Probe] = []
        index = PeerIndex()
        for port in (61001, 61002, 61003, 61004):
            index.put(endpoint(HERE, port), others=False)
        index.put(endpoint(PEER, 61009), others=True)
        self.signs = SignsOfLife(self, self, index, LAST)

    def probe(self, hosts: Collection[IPv4Address], wait_s: float) -> dict[IPv4Address, Presence]:
        return {host: self.pings.get(host, Presence.SILENT) for host in hosts}

    def ask(self, probes: Collection[Probe], wait_s: float) -> dict[Probe, Reply]:
        if self.error:
            raise self.error
        self.asked += probes
        return {probe: self.replies.get(probe, Reply.NONE) for probe in probes}

    def found(self) -> dict[IPv4Address, Presence]:
        return self.signs.probe([PEER, STRANGER], 1.0)


@pytest.mark.parametrize(("reply", "expected"), [
    (Reply.PROVEN, Presence.ANSWERED), (Reply.PLAIN, Presence.ANSWERED),
    (Reply.NONE, Presence.SILENT), (Reply.UNSENT, Presence.SILENT)])
def test_any_answer_to_a_syn_is_life(reply: Reply, expected: Presence) -> None:
    world = World()
    # The peer need not know all of this host's endpoints.
    world.replies = {Probe(PEER, 61009, 61002): reply, Probe(STRANGER, LAST, NOBODY): reply}
    assert world.found() == {PEER: expected, STRANGER: expected}
    assert world.asked == [*(Probe(PEER, 61009, caller) for caller in (61001, 61002, 61003)),
                           Probe(STRANGER, LAST, NOBODY)]


def test_who_answers_pings_is_not_asked_again() -> None:
    world = World()
    world.pings = {PEER: Presence.ANSWERED, STRANGER: Presence.ABSENT}
    assert world.found() == world.pings
    assert world.asked == [Probe(STRANGER, LAST, NOBODY)]


def test_a_syn_says_more_than_the_network(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.pings = {PEER: Presence.ABSENT}
    world.replies = {Probe(PEER, 61009, 61001): Reply.PROVEN}
    assert world.found()[PEER] is Presence.ANSWERED
    assert not caplog.text


@pytest.mark.parametrize("error", [LinkError("no CAP_NET_RAW"), DatapathError("full")])
def test_without_syns_pings_have_to_do(error: SlimError, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.error, world.pings = error, {PEER: Presence.ABSENT}
    for _ in range(2):
        assert world.found() == {PEER: Presence.ABSENT, STRANGER: Presence.SILENT}
    assert caplog.text.count(str(error)) == 1


def test_hosts_of_the_other_family_are_asked_by_pings_only() -> None:
    """There is no host path whose SYNs could reach them."""
    world, six = World(), IPv6Address("2001:db8::6")
    assert world.signs.probe([six], 1.0) == {six: Presence.SILENT}
    assert world.asked == []
    over_ipv6 = SignsOfLife(world, world, PeerIndex(6), LAST)
    assert over_ipv6.probe([six, PEER], 1.0) == {six: Presence.SILENT, PEER: Presence.SILENT}
    assert world.asked == [Probe(six, LAST, NOBODY)]
