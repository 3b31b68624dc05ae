"""Tests watching hosts without a lease: those that do not answer are refused, later removed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from driver.errors import LinkError, StoreUnavailable, UnsupportedRecord
from driver.model import Absence, Host, HostId, KnownHost, Removal, Seen
from driver.services.hosts.watch import INTERVAL_S, MISSES, RECORDS_S, HostWatch
from driver.services.ports import Presence

ME = Host(HostId("a" * 32), "me", IPv4Address("192.0.2.1"))
PEER = Host(HostId("b" * 32), "peer", IPv4Address("192.0.2.2"))
OTHER = Host(HostId("c" * 32), "other", IPv4Address("192.0.2.3"))


class World:
    """etcd, the network and the maps that the watch sees."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.away = False
        self.deaf = False
        self.presence: dict[IPv4Address, Presence] = {}
        self.asked: list[IPv4Address] = []
        self.refused: Collection[IPv4Address] = {PEER.underlay}  # left by an earlier driver
        self.removed: list[Absence] = []
        self.hosts = {h.id: KnownHost(h, 100) for h in (ME, PEER, OTHER)}
        self.absence: dict[HostId, Absence] = {}
        self.notes: list[Seen] = []
        self.over = self.unreadable = False
        self.watch = HostWatch(me=ME.id, absences=self, prober=self, refuse=self.refuse,
                               remove=self.removed.append, clock=lambda: self.now_s)

    def live(self, *hosts: Host) -> None:
        self.watch.hosts_changed({host.id: host for host in hosts})

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            self.now_s += INTERVAL_S
            self.watch.run()

    def run_for(self, seconds: float) -> None:
        self.run(int(seconds / INTERVAL_S) + 1)

    # ports.Prober
    def probe(self, hosts: Collection[IPv4Address], wait_s: float
              ) -> dict[IPv4Address, Presence]:
        if self.deaf:
            raise LinkError("no socket")
        self.asked += hosts
        return {host: self.presence.get(host, Presence.SILENT) for host in hosts}

    def refuse(self, hosts: Collection[IPv4Address]) -> None:
        self.refused = set(hosts)

    # ports.Absences
    def known(self) -> dict[HostId, KnownHost]:
        if self.away:
            raise StoreUnavailable("etcd is away")
        return dict(self.hosts)

    def registered(self) -> set[HostId]:
        raise NotImplementedError

    def get(self, host_id: HostId) -> Absence | None:
        if self.unreadable:
            raise UnsupportedRecord("absent/... in etcd left alone")
        if self.away:
            raise StoreUnavailable("etcd is away")
        return self.absence.get(host_id)

    def note(self, known: KnownHost, before: Absence | None, seen: Seen) -> bool:
        assert before == self.absence.get(known.host.id)
        self.absence[known.host.id] = Absence(known.host.id, int(seen is Seen.GONE), seen=seen)
        self.notes.append(seen)
        return True

    def left_s(self, absence: Absence) -> int | None:
        return 0 if self.over else 50

    def begin(self, host_id: HostId, before: Absence | None, removal: Removal, *,
              registered: bool = False) -> Absence | None:
        assert not registered
        assert before == self.absence[host_id]
        self.absence[host_id] = replace(before, removal=removal)
        return self.absence[host_id]

    def finish(self, absence: Absence) -> bool:
        raise NotImplementedError


@pytest.fixture
def world() -> World:
    made = World()
    made.live(ME, PEER, OTHER)
    made.presence = dict.fromkeys((PEER.underlay, OTHER.underlay), Presence.ANSWERED)
    made.run()
    return made


def test_a_host_that_goes_silent_is_refused(world: World) -> None:
    world.live(ME, OTHER)
    world.presence[PEER.underlay] = Presence.SILENT
    world.run(MISSES - 1)
    assert not world.refused
    world.run()
    assert world.refused == {PEER.underlay}
    assert world.watch.describe() == "2 registered, 0 absent, 1 gone"
    assert world.watch.counts() == {"registered": 2, "absent": 0, "gone": 1}


@pytest.mark.parametrize("sign", ["an answer", "a lease"])
def test_a_sign_of_life_ends_it_at_once(world: World, sign: str) -> None:
    world.live(ME, OTHER)
    world.presence[PEER.underlay] = Presence.SILENT
    world.run(MISSES)
    if sign == "a lease":
        world.live(ME, PEER, OTHER)  # not only when it is run next
    else:
        world.presence[PEER.underlay] = Presence.ANSWERED
        world.run()
    assert world.refused == set()
    world.run()
    assert world.refused == set()


def test_who_answers_without_a_lease_is_left_alone(world: World) -> None:
    """Its driver is stopped, or cannot reach etcd; its containers go on."""
    world.live(ME, OTHER)
    world.run_for(10 * RECORDS_S)
    assert not world.refused
    assert world.absence == {}
    assert world.watch.describe() == "2 registered, 1 absent, 0 gone"


def test_a_lease_without_an_answer_is_enough(world: World) -> None:
    world.presence[PEER.underlay] = Presence.ABSENT
    world.run_for(10 * RECORDS_S)
    assert not world.refused
    assert world.absence == {}


def test_silence_of_a_host_that_never_answered_says_nothing() -> None:
    world = World()
    world.live(ME, OTHER)
    world.run(10)
    assert not world.refused
    world.presence[PEER.underlay] = Presence.ABSENT  # the network says so: that is certain
    world.run()
    assert world.refused == {PEER.underlay}


def test_single_lost_packets_are_no_absence(world: World) -> None:
    world.live(ME, OTHER)
    for _ in range(5):
        world.presence[PEER.underlay] = Presence.SILENT
        world.run(MISSES - 1)
        world.presence[PEER.underlay] = Presence.ANSWERED
        world.run()
    assert not world.refused


def test_an_address_in_use_again_is_not_refused(world: World) -> None:
    heir = Host(HostId("d" * 32), "heir", PEER.underlay)
    world.live(ME, OTHER, heir)
    world.run(10)
    assert not world.refused
    # Its answers are not those of the dead host, whose addresses return.
    world.over = True
    world.run_for(3 * RECORDS_S)
    assert {absence.host for absence in world.removed} == {PEER.id}
    assert not world.refused


def test_live_hosts_are_asked_until_they_answer_once(world: World) -> None:
    world.asked.clear()
    world.run(100)
    assert world.asked == []
    fresh = Host(HostId("d" * 32), "fresh", IPv4Address("192.0.2.4"))
    world.live(ME, PEER, OTHER, fresh)
    world.run(100)
    assert set(world.asked) == {fresh.underlay}
    assert len(world.asked) < 10


def test_time_is_counted_and_then_the_addresses_are_taken(world: World) -> None:
    world.live(ME, OTHER)
    world.presence[PEER.underlay] = Presence.SILENT
    world.run_for(3 * RECORDS_S)
    assert world.absence[PEER.id].removal is Removal.NONE
    world.over = True
    world.run_for(RECORDS_S)
    assert [(a.host, a.removal) for a in world.removed] == [(PEER.id, Removal.ADDRESSES)]
    world.run_for(RECORDS_S)  # it may be incomplete, so it is repeated
    assert len(world.removed) == 2
    world.absence[PEER.id] = replace(world.absence[PEER.id], done=True)
    world.run_for(3 * RECORDS_S)
    assert len(world.removed) == 2


def test_who_answers_puts_the_end_off(world: World) -> None:
    """Another driver, which cannot reach the host, is sure that it is gone."""
    world.live(ME, OTHER)
    world.absence[PEER.id] = Absence(PEER.id, 1, seen=Seen.GONE)
    world.over = True
    world.run_for(2 * RECORDS_S)
    assert world.absence[PEER.id].seen is Seen.ALIVE
    assert world.notes == [Seen.ALIVE]  # only once
    world.absence[PEER.id] = Absence(PEER.id, 1, seen=Seen.GONE)  # the other says so again
    world.run_for(RECORDS_S)
    assert world.absence[PEER.id].seen is Seen.ALIVE
    assert world.removed == []


def silent_from_the_start() -> World:
    world = World()
    world.live(ME, OTHER)
    world.over = True
    world.run_for(3 * RECORDS_S)
    return world


def test_who_never_answered_is_never_removed(caplog: pytest.LogCaptureFixture) -> None:
    """A firewall may be the cause, and its containers may be well."""
    world = silent_from_the_start()
    assert world.notes == [Seen.SILENCE]
    assert world.removed == []
    assert caplog.text.count("proves nothing") == 1
    world.presence[PEER.underlay] = Presence.ABSENT  # the network says so: that is certain
    world.over = False
    world.run_for(RECORDS_S)
    assert world.notes == [Seen.SILENCE, Seen.GONE]
    world.over = True
    world.run_for(RECORDS_S)
    assert [absence.host for absence in world.removed] == [PEER.id]


@pytest.mark.parametrize(("seen", "removed"), [(Seen.GONE, True), (Seen.ALIVE, False)])
def test_what_others_have_seen_counts_for_who_had_no_answer(
        seen: Seen, removed: bool) -> None:
    """Restarted drivers do not know who had answered them."""
    world = World()
    world.live(ME, OTHER)
    world.absence[PEER.id] = Absence(PEER.id, 1, seen=seen)
    world.over = True
    world.run_for(3 * RECORDS_S)
    assert bool(world.removed) is removed
    assert world.notes == []


def test_an_answer_of_the_next_one_there_proves_nothing() -> None:
    """The host has the address of a dead one, which this driver never asked."""
    world = World()
    heir = Host(HostId("d" * 32), "heir", PEER.underlay)
    world.presence[heir.underlay] = Presence.ANSWERED
    world.live(ME, OTHER, heir)
    world.over = True
    world.run_for(3 * RECORDS_S)
    assert world.absence[PEER.id].seen is Seen.SILENCE
    assert world.removed == []


def test_nothing_is_taken_without_etcd(world: World) -> None:
    world.live(ME, OTHER)
    world.presence[PEER.underlay] = Presence.SILENT
    world.run_for(RECORDS_S)
    world.over = world.away = True
    world.run_for(3 * RECORDS_S)
    assert world.removed == []
    assert world.refused == {PEER.underlay}


def test_who_cannot_ask_judges_nobody(world: World) -> None:
    world.live(ME, OTHER)
    world.deaf = True
    world.run_for(3 * RECORDS_S)
    assert not world.refused


def test_before_the_first_news_nothing_is_done() -> None:
    world = World()
    world.run(10)
    assert world.asked == []
    assert world.refused == {PEER.underlay}
    world.live(ME, PEER, OTHER)
    assert not world.refused


def test_a_removal_that_takes_minutes_does_not_keep_the_looks(world: World) -> None:
    """A refusal lasts only a minute, so the watch must repeat it meanwhile."""
    apart: list[Callable[[], None]] = []
    world.watch = HostWatch(me=ME.id, absences=world, prober=world, refuse=world.refuse,
                            remove=world.removed.append, apart=apart.append,
                            clock=lambda: world.now_s)
    world.live(ME, OTHER)
    world.presence[PEER.underlay] = Presence.ABSENT
    world.run_for(RECORDS_S)
    assert world.refused == {PEER.underlay}
    assert apart, "etcd is asked by somebody else"
    assert not world.absence
    world.refused = ()
    world.run()
    assert world.refused == {PEER.underlay}
    apart[-1]()
    assert set(world.absence) == {PEER.id}


def test_a_mark_that_cannot_be_read_is_said_once(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Its host must lose nothing by it."""
    world.live(ME, OTHER)
    world.presence[PEER.underlay] = Presence.ABSENT
    for spoilt in (True, False, True):
        world.unreadable = spoilt
        world.run_for(3 * RECORDS_S)
    assert caplog.text.count("absent/... in etcd left alone; the host keeps all it has") == 2
    assert world.removed == []
