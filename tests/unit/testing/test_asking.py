"""Tests a round in etcd: one at a time, what is collected, and that nothing stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from driver.errors import Conflict
from driver.model import KnownHost
from driver.services.ports import Round
from driver.services.testing.asking import QUEUE_S, READY_S, Asking
from driver.store.format import keys, records
from driver.store.kv.protocol import Put
from driver.store.rounds import EtcdRounds
from tests.support.fakes.kv import FakeKeyValue
from tests.unit.testing.rounds import ROUND, TOKEN, collected, host, participant

A, B = participant(1), participant(2)


class Drivers:
    """Time, and drivers that act whenever the asker sleeps."""

    def __init__(self, kv: FakeKeyValue) -> None:
        self.kv = kv
        self.rounds = EtcdRounds(kv)
        self.now_s = 1000.0
        self.ready = [A, B]
        self.finish = [A, B]
        self.clock_off_s = 0.0
        for each in (A, B):
            kv.commit([], [Put(keys.host(each.host), records.encode(records.host_fields(
                host(each)))), Put(keys.known(each.host), records.encode(records.known_fields(
                    KnownHost(host(each), 0))))])

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        asked = self.rounds.current()
        if asked is None or asked.token != TOKEN:
            return
        for each in self.ready if not asked.go else ():
            self.rounds.enter(asked, replace(
                each, clock_us=int((self.now_s - 0.05 + self.clock_off_s) * 1e6)))
        for each in self.finish if asked.go else ():
            self.rounds.put_row(asked, collected(A, B).rows[each.host])

    def asking(self) -> Asking:
        return Asking(EtcdRounds(self.kv), clock=lambda: self.now_s, wall=lambda: self.now_s,
                      sleep=self.sleep)


@pytest.fixture
def drivers() -> Drivers:
    return Drivers(FakeKeyValue())


def left(drivers: Drivers) -> list[str]:
    return [key for key in drivers.kv.store.entries if key.startswith(keys.ROOT + "test/")]


def test_all_is_collected_and_nothing_stays(drivers: Drivers) -> None:
    found = drivers.asking().ask(ROUND)
    assert found.participants.keys() == found.rows.keys() == found.live.keys() == {A.host, B.host}
    assert found.rows == collected(A, B).rows
    assert left(drivers) == []
    assert drivers.kv.store.leases == {}


def test_clocks_have_bounds(drivers: Drivers) -> None:
    drivers.clock_off_s = 42.0
    for each in drivers.asking().ask(ROUND).clocks.values():
        assert each.least_s <= 42.0 <= each.most_s
        assert each.most_s - each.least_s < 0.2


def test_it_waits_for_those_who_do_not_come_but_not_for_ever(drivers: Drivers) -> None:
    drivers.ready, drivers.finish = [A], []
    began_s = drivers.now_s
    found = drivers.asking().ask(ROUND)
    assert found.participants.keys() == {A.host}
    assert found.rows == {}
    assert drivers.now_s - began_s >= READY_S
    assert drivers.now_s - began_s < 10
    assert left(drivers) == []


def test_another_round_is_waited_for(drivers: Drivers) -> None:
    other = EtcdRounds(drivers.kv)
    begun = other.begin(Round(bytes(8), "x\x1b"))
    assert begun is not None
    with pytest.raises(Conflict, match=r"asked for on 'x\\x1b', is under way") as caught:
        drivers.asking().ask(ROUND)
    assert str(caught.value).isprintable()
    assert drivers.now_s >= 1000 + QUEUE_S
    before_s = drivers.now_s
    with pytest.raises(Conflict):
        drivers.asking().ask(ROUND, wait=False)
    assert drivers.now_s == before_s
    other.end(begun)
    assert drivers.asking().ask(ROUND).rows


def test_an_asker_that_dies_is_ended_by_its_lease(drivers: Drivers) -> None:
    begun = drivers.rounds.begin(ROUND)
    assert begun is not None
    drivers.rounds.enter(begun, A)
    with drivers.kv.store.changed:
        drivers.kv.store.end_lease(begun.lease)
    assert left(drivers) == []
    assert not drivers.rounds.go(begun)


def test_what_cannot_be_read_is_left_out(drivers: Drivers) -> None:
    begun = drivers.rounds.begin(ROUND)
    assert begun is not None
    drivers.rounds.enter(begun, A)
    for name, value in (("bad", b"{"), ("of another", drivers.kv.store.entries[
            keys.participant(TOKEN, A.host)][0].value)):
        drivers.kv.commit([], [Put(keys.participants(TOKEN) + name, value)])
    assert drivers.rounds.participants(begun) == {A.host: A}


def test_only_one_of_two_begins(drivers: Drivers) -> None:
    assert drivers.rounds.begin(ROUND) is not None
    other = EtcdRounds(drivers.kv)
    assert other.begin(Round(bytes(8), "b")) is None
    assert len(drivers.kv.store.leases) == 1
