"""Tests how a host takes part: when it sends, to whom, one round after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from driver.model import HostId
from driver.services.ports import Heard, Round, Sent, Target
from driver.services.testing import taking_part
from driver.services.testing.plan import target
from driver.services.testing.taking_part import ATTEMPTS, TakingPart
from driver.store.format import keys, records
from driver.store.kv.protocol import Put
from driver.store.rounds import EtcdRounds
from tests.support.fakes.kv import FakeKeyValue
from tests.support.run.wait import wait_until
from tests.unit.testing.rounds import ROUND, host, participant

A, B, C = (participant(number) for number in (1, 2, 3))


class Air:
    """A Marker and its Marking."""

    def __init__(self) -> None:
        self.open = 0
        self.most = 0
        self.volleys: list[list[Target]] = []

    @contextmanager
    def marking(self, token: bytes) -> Iterator[Air]:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            yield self
        finally:
            self.open -= 1

    def send(self, targets: Sequence[Target]) -> None:
        self.volleys.append(list(targets))

    def listen(self, seconds: float) -> None:
        pass

    def sent(self) -> Mapping[IPv4Address, Sent]:
        return {each.underlay: Sent(rtt_us=7) for each in self.volleys[-1]}

    def heard(self) -> Mapping[IPv4Address, Heard]:
        return {B.underlay: Heard(whole=1500)}


class World:
    def __init__(self) -> None:
        self.kv = FakeKeyValue()
        self.rounds = EtcdRounds(self.kv)
        self.air = Air()
        self.part = TakingPart(me=A.host, rounds=EtcdRounds(self.kv), marker=self.air,
                               describe=lambda: A,
                               troubles=lambda: {B.underlay: "its probes fail"})
        for each in (A, B, C):
            self.kv.commit([], [Put(keys.host(each.host), records.encode(
                records.host_fields(host(each))))])

    def begin(self, asked: Round = ROUND) -> Round:
        begun = self.rounds.begin(asked)
        assert begun is not None
        self.part.asked(begun)
        wait_until(lambda: A.host in self.rounds.participants(begun), 10, "it takes part")
        return begun

    def go(self, begun: Round) -> None:
        assert self.rounds.go(begun)
        self.part.asked(replace(begun, go=True))

    def finish(self, begun: Round) -> None:
        self.go(begun)
        wait_until(lambda: A.host in self.rounds.rows(begun), 10, "its row is there")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(taking_part, "REST_S", 0.0)
    made = World()
    made.part.start()
    yield made
    made.part.stop()
    assert not made.air.open


def test_a_round(world: World) -> None:
    begun = world.begin()
    assert world.air.volleys == []
    world.rounds.enter(begun, B)
    world.finish(begun)
    assert [[each.underlay for each in volley] for volley in world.air.volleys] == [
        [B.underlay]] * ATTEMPTS
    assert world.air.volleys[1] == [target(A, B)]
    for volley in (world.air.volleys[0], world.air.volleys[2]):  # the other sizes once is enough
        assert volley == [replace(target(A, B), whole=target(A, B).whole[:1])]
    row = world.rounds.rows(begun)[A.host]
    assert row.sent == {B.underlay: Sent(rtt_us=7, trouble="its probes fail")}
    assert row.heard == world.air.heard()
    wait_until(lambda: not world.air.open, 10, "its sockets are closed")


def test_nothing_is_sent_to_an_address_that_is_not_the_registered_one(world: World) -> None:
    """A member that lies has nobody flood a third party."""
    begun = world.begin()
    world.rounds.enter(begun, replace(B, underlay=IPv4Address("192.0.2.1")))
    world.rounds.enter(begun, participant(4))  # has no lease
    world.rounds.enter(begun, C)
    world.finish(begun)
    assert {each.underlay for volley in world.air.volleys for each in volley} == {C.underlay}


@pytest.mark.parametrize(("focus", "one_way", "receivers"), [
    (A.host, False, {B.underlay, C.underlay}), (A.host, True, {B.underlay, C.underlay}),
    (B.host, False, {B.underlay}), (B.host, True, set())])
def test_a_focus(world: World, focus: HostId, one_way: bool, receivers: set[IPv4Address]) -> None:
    begun = world.begin(replace(ROUND, focus=focus, one_way=one_way))
    for each in (B, C):
        world.rounds.enter(begun, each)
    world.finish(begun)
    assert {each.underlay for volley in world.air.volleys for each in volley} == receivers


def test_one_round_after_the_other(world: World) -> None:
    first = world.begin()
    world.finish(first)
    world.part.asked(replace(first, go=True))  # heard again: it is served once
    world.rounds.end(first)
    world.part.asked(None)
    second = world.begin(Round(bytes(8), "b"))
    world.finish(second)
    assert len(world.air.volleys) == 2 * ATTEMPTS
    assert world.air.most == 1


def test_a_round_that_is_ended_is_given_up(world: World) -> None:
    first = world.begin()
    world.rounds.end(first)
    world.part.asked(None)
    wait_until(lambda: not world.air.open, 10, "its sockets are closed")
    assert world.air.volleys == []
    world.finish(world.begin(Round(bytes(8), "b")))


def test_it_stops_while_it_waits_for_the_word(world: World) -> None:
    world.begin()
    ended = threading.Thread(target=world.part.stop)
    ended.start()
    ended.join(10)
    assert not ended.is_alive()
