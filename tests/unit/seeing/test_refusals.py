"""Tests that refusals are kept and logged by container, within bounds."""

from __future__ import annotations

import logging
from ipaddress import ip_address

import pytest

from driver.services.ports import Event, EventKind
from driver.services.seeing.refusals import KEPT, LINES, LINES_OF_ONE, PEERS, Refusals
from driver.services.seeing.telling import Telling
from tests.unit.seeing.test_following import event
from tests.unit.seeing.world import World, endpoint

MEANINGS = {"host_dead": "its host is gone", "spoofed_source": "not its own",
            "no_listener": "nobody listens"}


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock, caplog: pytest.LogCaptureFixture) -> Refusals:
    caplog.set_level(logging.INFO, "slim.refused")
    return Refusals(Telling(World().sources), MEANINGS, clock)


def refused(**changes: object) -> Event:
    return event(**{"kind": EventKind.REFUSED, "reason": "host_dead", "times": 1, **changes})


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_one(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    refusals.note([refused()])
    assert lines(caplog) == [
        "refused client -> 10.32.0.6:80 (web): host_dead: its host is gone"]
    found, = refusals.last()
    assert (found.container, found.network, str(found.peer), found.peer_name, found.count) == (
        "client", "app", "10.32.0.6", "web", 1)


def test_the_other_way(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    refusals.note([refused(inbound=True, local_port=5432, reason="no_listener")])
    assert lines(caplog) == [
        "refused client:5432 <- 10.32.0.6 (web): no_listener: nobody listens"]


def test_whose_name_is_not_known(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    refusals.note([refused(local=ip_address("10.32.0.77")), refused(local=None, vni=None)])
    assert lines(caplog) == [
        "refused 10.32.0.77 -> 10.32.0.6:80 (web): host_dead: its host is gone",
        "refused an unknown container -> 10.32.0.6:80: host_dead: its host is gone"]


def test_again_and_again(refusals: Refusals, clock: Clock, caplog: pytest.LogCaptureFixture
                         ) -> None:
    """A line a minute, with how often."""
    refusals.note([refused(), refused(times=8)])
    assert len(lines(caplog)) == 1
    clock.now_s += 59.0
    refusals.note([refused()])
    assert len(lines(caplog)) == 1
    clock.now_s += 1.0
    refusals.note([refused()])
    assert lines(caplog)[1].endswith("its host is gone (10 times)")
    assert refusals.last()[0].count == 11


def test_by_or_to_many_peers(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    refusals.note([refused(peer=ip_address(0x0a210000 + number), reason="spoofed_source")
                   for number in range(1000)])
    assert len(lines(caplog)) == PEERS + 1
    assert lines(caplog)[-1].startswith("refused client -> many others: spoofed_source")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    last, *named = refusals.last()
    assert (last.peer, last.count) == (None, 1000 - PEERS)
    assert len(named) == PEERS


def test_the_log_is_bounded(refusals: Refusals, clock: Clock, caplog: pytest.LogCaptureFixture
                            ) -> None:
    """Also if there are many containers; and none takes all lines from the others."""
    greedy = [refused(reason=f"reason{number}") for number in range(LINES)]
    refusals.note(greedy)
    assert len(lines(caplog)) == LINES_OF_ONE
    refusals.note([refused(local=ip_address(0x0a200100 + number)) for number in range(1000)])
    assert len(lines(caplog)) == LINES
    clock.now_s += 60.0
    caplog.clear()
    refusals.note([refused(local=ip_address("10.32.0.99"))])
    first, second = lines(caplog)
    assert first.startswith("refused: 1000 lines were left out")  # of 1030
    assert second.startswith("refused 10.32.0.99 ->")


def test_the_last_ones_are_kept(refusals: Refusals) -> None:
    refusals.note([refused(local=ip_address(0x0a200100 + number)) for number in range(KEPT + 50)])
    found = refusals.last()
    assert len(found) == KEPT
    assert str(found[0].own) == str(ip_address(0x0a200100 + KEPT + 49))
    refusals.note([refused(local=found[-1].own)])
    assert refusals.last()[0].own == found[-1].own
    assert refusals.last()[0].count == 2


def test_forgotten_peers_make_room(refusals: Refusals) -> None:
    """A container whose first refusals are forgotten is told by address again."""
    refusals.note([refused(peer=ip_address(f"10.32.1.{number}")) for number in range(PEERS)])
    refusals.note([refused(local=ip_address(0x0a200100 + number)) for number in range(KEPT)])
    refusals.note([refused(peer=ip_address("10.32.1.99"))])
    assert str(refusals.last()[0].peer) == "10.32.1.99"


def test_names_cannot_forge_lines(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "slim.refused")
    world = World()
    world.add("evil\n2026 INFO all is well\x1b[2J", endpoint("c1", "10.32.0.3/16"))
    Refusals(Telling(world.sources), MEANINGS, clock).note([
        refused(local=ip_address("10.32.0.3"))])
    line, = lines(caplog)
    assert line.isprintable()
