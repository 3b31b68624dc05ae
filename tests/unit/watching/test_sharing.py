"""Tests the exchange over etcd: only while somebody watches, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from driver.model import HostId
from driver.services.ports import Summary
from driver.services.watching import sharing
from driver.services.watching.sharing import Sharing
from driver.store.format import keys
from driver.store.kv.protocol import Put
from driver.store.summaries import EtcdSummaries, WatcherListener
from tests.support.fakes.kv import FakeKeyValue, FakeStore
from tests.support.run.wait import wait_until

ONE, TWO = HostId("a" * 32), HostId("b" * 32)
LONG_S = 20


class Clock:
    """What all take for the time: later when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class HostWithEtcd:
    """One host's part, with a summary that a test changes."""

    def __init__(self, me: HostId, store: FakeStore, clock: Clock) -> None:
        self.summary: Summary | None = None
        self.watched = False
        self.hosts = 2
        self.sharing = Sharing(me, EtcdSummaries(FakeKeyValue(store), me), lambda: self.summary,
                               self._watched, hosts=lambda: self.hosts, clock=clock)
        self.listener = WatcherListener(self.sharing.watchers)

    def _watched(self, by_others: bool) -> None:
        self.watched = by_others


class World:
    def __init__(self) -> None:
        self.store, self.clock = FakeStore(), Clock()
        self.kv = FakeKeyValue(self.store)
        self.one, self.two = (HostWithEtcd(each, self.store, self.clock) for each in (ONE, TWO))
        self.both = (self.one, self.two)

    def stored(self) -> list[str]:
        return [each.key for each in self.kv.range(keys.ROOT).entries]

    def feed(self) -> None:
        """Bring both hosts the keys of those that watch."""
        listing = self.kv.range(keys.WATCHERS)
        for host in self.both:
            host.listener.listed(listing.entries, listing.revision)


@contextmanager
def running(world: World) -> Iterator[World]:
    for host in world.both:
        host.sharing.start()
    try:
        yield world
    finally:
        for host in world.both:
            host.sharing.stop()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(sharing, "EVERY_S", 0.01)
    monkeypatch.setattr(sharing, "AGAIN_S", 0.01)
    with running(World()) as made:
        yield made


def heard(world: World) -> Summary | None:
    """What the first host has heard of the second one; a tenth of a second later."""
    world.clock.now_s += 0.1
    found = world.one.sharing.ask().heard.get(TWO)
    return found.summary if found else None


def watched(world: World) -> None:
    world.one.sharing.ask()
    wait_until(lambda: keys.watching(ONE) in world.stored(), LONG_S, "it says that it watches")
    world.feed()
    assert world.two.watched
    assert not world.one.watched  # nobody else watches


def test_a_summary_while_somebody_watches(world: World) -> None:
    world.two.summary = Summary(TWO, "1", every_s=2.0)
    assert world.stored() == []
    watched(world)
    wait_until(lambda: heard(world) == Summary(TWO, "1", every_s=2.0), LONG_S, "it is told")
    world.two.summary = Summary(TWO, "2", every_s=2.0)
    wait_until(lambda: heard(world) == Summary(TWO, "2", every_s=2.0), LONG_S, "the next one, too")
    assert world.stored() == [keys.summary(TWO), keys.watching(ONE)]  # the watcher tells nobody


def test_many_hosts_together_write_as_much_as_a_few(world: World) -> None:
    world.two.summary, world.two.hosts = Summary(TWO, "1", every_s=2.0), 10_000
    watched(world)
    wait_until(lambda: heard(world) is not None, LONG_S, "it is told")
    first = heard(world)
    assert first is not None
    assert first.every_s > 30  # so nobody takes it for silent
    world.two.summary = Summary(TWO, "2", every_s=2.0)
    seen = world.one.sharing.ask()
    wait_until(lambda: world.one.sharing.ask() is not seen, LONG_S, "another round")
    assert heard(world) == first
    world.clock.now_s += sharing.LINGER_S - 1
    world.two.hosts = 2
    wait_until(lambda: (told := heard(world)) is not None and told.version == "2", LONG_S,
               "the next one is told")


def test_a_long_watch_is_slower(world: World) -> None:
    world.two.hosts = 1000
    world.two.summary = Summary(TWO, "1", every_s=2.0)
    watched(world)
    wait_until(lambda: heard(world) is not None, LONG_S, "it is told")
    first = heard(world)
    for _ in range(int(sharing.QUICK_S)):
        world.clock.now_s += 1
        world.one.sharing.ask()
    world.two.summary = Summary(TWO, "2", every_s=2.0)
    wait_until(lambda: (told := heard(world)) is not None and told.version == "2", LONG_S,
               "the next one is told")
    later = heard(world)
    assert first is not None
    assert later is not None
    assert later.every_s > 3 * first.every_s


def test_nobody_asks_any_more(world: World) -> None:
    world.two.summary = Summary(TWO, every_s=2.0)
    watched(world)
    wait_until(lambda: heard(world) is not None, LONG_S, "it is told")
    world.clock.now_s += sharing.LINGER_S + 1
    wait_until(lambda: keys.watching(ONE) not in world.stored(), LONG_S, "it watches no more")
    world.feed()
    assert not world.two.watched
    wait_until(lambda: world.stored() == [], LONG_S, "nothing is told")
    revision = world.store.revision
    # What was heard then is not shown to who asks later.
    assert world.one.sharing.ask().heard == {}
    wait_until(lambda: world.store.revision > revision, LONG_S, "it watches again")


def test_etcd_is_away_and_comes_back(world: World) -> None:
    world.two.summary = Summary(TWO, every_s=2.0)
    watched(world)
    wait_until(lambda: heard(world) is not None, LONG_S, "it is told")
    world.store.away = True
    wait_until(lambda: "away" in world.one.sharing.ask().problem, LONG_S, "that is said")
    assert heard(world) == Summary(TWO, every_s=2.0)  # as it was
    world.store.away = False
    wait_until(lambda: world.one.sharing.ask().problem == "", LONG_S, "that is over")
    world.two.summary = Summary(TWO, "2", every_s=2.0)
    wait_until(lambda: heard(world) == Summary(TWO, "2", every_s=2.0), LONG_S,
               "the next one is told")


def test_a_summary_that_becomes_unreadable(world: World) -> None:
    world.two.summary = Summary(TWO, every_s=2.0)
    watched(world)
    wait_until(lambda: heard(world) is not None, LONG_S, "it is told")
    world.kv.commit([], [Put(keys.summary(TWO), b"\x00garbage")])
    wait_until(lambda: "no record of slim" in world.one.sharing.ask().heard[TWO].problem, LONG_S,
               "that is said")
    assert heard(world) == Summary(TWO, every_s=2.0)  # the last one that could be read


def test_a_stop_takes_everything_back() -> None:
    with running(World()) as made:
        made.two.summary = Summary(TWO, every_s=2.0)
        watched(made)
        wait_until(lambda: heard(made) is not None, LONG_S, "it is told")
    assert made.stored() == []
    assert made.store.leases == {}
