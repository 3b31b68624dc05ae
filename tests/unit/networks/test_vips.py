"""Tests vips: what is mirrored into the maps, and who publishes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest

from driver.errors import Conflict, DatapathError, EngineUnavailable, StoreUnavailable
from driver.model import Network, NetworkId, NetworkKey, Vip, Vni
from driver.services.directory.view import Doubt
from driver.services.ports import SwarmView, VipLeft, VipSaid, VipUnreadable
from driver.services.vips.mirror import VipMirror
from driver.services.vips.publisher import (
    CALM_S,
    CHANGING_S,
    NO_MANAGER_S,
    PAUSES,
    VipPublisher,
)
from driver.work.ledger import Ledger
from tests.support.fakes.ports import FakeDatapath, FakeVipFeed, Faults

NET = NetworkId("8c1f0" * 5)
NETWORK = Network(NET, NetworkKey("pool:10.32.0.0/16"), Vni(7), ("10.32.0.0/16",))
VIP, OTHER = IPv4Address("10.32.0.9"), IPv4Address("10.32.0.10")
TASKS = (IPv4Address("10.32.0.2"), IPv4Address("10.32.0.3"))
WEB = Vip(NET, VIP, "web", TASKS)


@dataclass
class Host:
    faults: Faults = field(default_factory=lambda: Faults(error=DatapathError))

    def __post_init__(self) -> None:
        self.datapath = FakeDatapath(self.faults)
        self.restart()

    def restart(self) -> None:
        self.feed = FakeVipFeed(self.faults)
        self.ledger = Ledger()  # tests run it themselves
        self.mirror = VipMirror(self.feed, self.datapath, self.ledger, clock=lambda: 3.0)

    def heard(self, *said: VipSaid, revision: int = 5) -> None:
        self.feed.live[NET].snapshot(NET, said, revision)

    @property
    def served(self) -> dict[IPv4Address, tuple[IPv4Address, ...]]:
        return {address: tasks for (vni, address), tasks in self.datapath.services.items()
                if vni == NETWORK.vni}


@pytest.fixture
def host() -> Host:
    made = Host()
    made.mirror.follow(NETWORK)
    return made


def test_services_come_change_and_go(host: Host) -> None:
    host.heard(WEB)
    assert host.served == {VIP: TASKS}
    listener = host.feed.live[NET]
    listener.put(replace(WEB, backends=TASKS[:1]))
    listener.put(replace(WEB, address=OTHER, name="db"))
    assert host.served == {VIP: TASKS[:1], OTHER: TASKS}
    assert host.mirror.count() == 2
    listener.left(NET, VIP)
    assert host.served == {OTHER: TASKS}
    host.heard(WEB, VipLeft(OTHER))  # after a while without a watch
    assert host.served == {VIP: TASKS}


def test_nothing_is_left_of_a_network_that_goes(host: Host) -> None:
    host.heard(WEB)
    listener = host.feed.live[NET]
    host.mirror.unfollow(NETWORK)
    assert (host.served, host.feed.live, host.mirror.count()) == ({}, {}, 0)
    listener.put(WEB)  # a call that had already begun
    listener.snapshot(NET, [WEB], 9)
    listener.left(NET, VIP)
    listener.missing(NET, VIP, 9)
    listener.unreadable(NET, VIP)
    host.mirror.unfollow(NETWORK)
    assert host.served == {}


@pytest.mark.parametrize("network", [
    replace(NETWORK, vip=False), replace(NETWORK, id=NetworkId("a" * 64))])
def test_networks_without_services_are_not_followed(network: Network) -> None:
    host = Host()
    host.mirror.follow(network)
    assert not host.feed.live


def test_a_restart_keeps_what_holds_and_drops_the_rest(host: Host) -> None:
    host.heard(WEB, replace(WEB, address=OTHER))
    host.datapath.services[Vni(8), VIP] = TASKS  # of a network that is gone
    host.restart()
    host.mirror.follow(NETWORK)
    host.mirror.followed([NETWORK])
    assert host.datapath.services == {(7, VIP): TASKS, (7, OTHER): TASKS}
    host.heard(replace(WEB, backends=()), VipLeft(OTHER))
    assert host.served == {VIP: ()}


def test_a_network_whose_option_was_switched_off_is_dropped_at_the_next_start(host: Host) -> None:
    host.heard(WEB)
    host.restart()
    off = replace(NETWORK, vip=False)
    host.mirror.follow(off)
    host.mirror.followed([off])
    assert host.datapath.services == {}


SECOND = replace(NETWORK, id=NetworkId("9d2f1" * 5))  # another Docker network with the same subnet
DB = replace(WEB, network_id=SECOND.id, address=OTHER, name="db")


@pytest.fixture
def both(host: Host) -> Host:
    host.mirror.follow(SECOND)
    host.heard(WEB)
    host.feed.live[SECOND.id].snapshot(SECOND.id, [DB], 5)
    return host


def test_two_networks_with_one_subnet_keep_each_their_services(both: Host) -> None:
    assert both.served == {VIP: TASKS, OTHER: TASKS}
    assert both.mirror.count() == 2
    both.heard(replace(WEB, backends=TASKS[:1]))
    assert both.served == {VIP: TASKS[:1], OTHER: TASKS}
    both.mirror.unfollow(NETWORK)
    assert both.served == {OTHER: TASKS}
    both.mirror.unfollow(SECOND)
    assert (both.served, both.mirror.count()) == ({}, 0)


def test_an_address_that_moves_from_one_of_them_to_the_other(both: Host) -> None:
    """In whatever order the news come, the old vip's end must not end the new one."""
    first, second = both.feed.live[NET], both.feed.live[SECOND.id]
    second.put(replace(DB, address=VIP, backends=TASKS[1:]))
    assert set(both.served[VIP]) == set(TASKS)
    first.left(NET, VIP)
    assert both.served == {VIP: TASKS[1:], OTHER: TASKS}


@pytest.mark.parametrize("first", [0, 1])
def test_after_a_restart_the_one_that_is_heard_later_is_not_dropped(both: Host, first: int
                                                                    ) -> None:
    both.restart()
    for network in (NETWORK, SECOND):
        both.mirror.follow(network)
    both.mirror.followed([NETWORK, SECOND])
    heard = [(NETWORK, WEB), (SECOND, DB)]
    for network, service in (heard[first], heard[1 - first]):
        assert {VIP, OTHER} <= both.served.keys()
        both.feed.live[network.id].snapshot(network.id, [service], 5)
    assert both.served == {VIP: TASKS, OTHER: TASKS}


@pytest.mark.parametrize("after", [False, True])
def test_what_the_maps_refuse_is_tried_again(host: Host, after: bool) -> None:
    def fail() -> None:
        host.faults.reset()
        host.faults.fail_at, host.faults.after = 1, after

    fail()
    host.heard(WEB)
    host.faults.reset()
    host.ledger.run()
    assert host.served == {VIP: TASKS}
    fail()
    host.feed.live[NET].left(NET, VIP)
    host.faults.reset()
    host.ledger.run()
    assert host.served == {}
    host.ledger.run()
    assert host.faults.done == ["datapath.delete_vip"]  # only once


MINE = replace(WEB, swarm="swarm")
DB_TOO = replace(MINE, address=OTHER, name="db")


def test_what_is_missing_or_unreadable_stays_as_it_was_known(host: Host) -> None:
    host.heard(MINE, DB_TOO)
    listener = host.feed.live[NET]
    listener.missing(NET, VIP, 7)
    listener.missing(NET, IPv4Address("10.32.0.99"), 7)
    listener.unreadable(NET, OTHER)
    assert host.served == {VIP: TASKS, OTHER: TASKS}
    assert host.mirror.doubts() == {"swarm": Doubt(7, 3.0)}
    assert host.mirror.in_doubt() == sorted((VIP, OTHER))
    host.heard(revision=9)
    assert host.served == {VIP: TASKS, OTHER: TASKS}
    assert host.mirror.doubts() == {"swarm": Doubt(9, 3.0)}
    host.heard(MINE, DB_TOO, revision=10)
    assert (host.mirror.doubts(), host.mirror.in_doubt()) == ({}, [])


def test_a_managers_word_settles(host: Host) -> None:
    host.heard(MINE, DB_TOO)
    host.heard(MINE, revision=9)
    assert host.mirror.settle("swarm", 8) == 0
    assert host.mirror.settle("another", 99) == 0
    host.feed.on_record = [DB_TOO]  # the vip is back, but the feed is late
    assert host.mirror.settle("swarm", 9) == 0
    host.feed.on_record = [VipUnreadable(OTHER)]
    assert host.mirror.settle("swarm", 9) == 0
    host.feed.on_record = [MINE]
    assert host.mirror.settle("swarm", 9) == 1
    assert host.served == {VIP: TASKS}


def test_an_endpoint_that_has_the_address_ends_a_doubt(host: Host) -> None:
    host.heard(MINE, DB_TOO)
    host.mirror.address_taken(NETWORK.vni, VIP)
    assert host.served == {VIP: TASKS, OTHER: TASKS}, "on record, both: a person's matter"
    host.heard(DB_TOO, revision=9)
    host.mirror.address_taken(NETWORK.vni, VIP)
    assert host.served == {OTHER: TASKS}
    host.restart()
    host.mirror.follow(NETWORK)
    host.mirror.address_taken(NETWORK.vni, OTHER)
    assert host.served == {}


def test_what_a_driver_before_served_stays_until_somebody_says_something(host: Host) -> None:
    host.heard(MINE, DB_TOO)
    host.restart()
    host.mirror.follow(NETWORK)
    host.mirror.followed([NETWORK])
    assert host.mirror.doubts() == {}
    host.heard(revision=9)
    assert host.served == {VIP: TASKS, OTHER: TASKS}
    assert host.mirror.doubts() == {"": Doubt(9, 3.0)}, "nobody knows whose network it is"
    assert host.mirror.settle("", 99) == 0
    host.heard(MINE, revision=10)
    assert host.mirror.doubts() == {"swarm": Doubt(10, 3.0)}
    assert host.mirror.settle("swarm", 10) == 1
    assert host.served == {VIP: TASKS}


def test_a_network_that_is_not_on_record_keeps_its_services_for_who_is_in_it(host: Host) -> None:
    host.heard(MINE)
    for attached, served in (({NETWORK.vni}, {VIP: TASKS}), (set(), {})):
        host.restart()
        host.datapath.attached = attached
        host.mirror.followed([])
        assert host.served == served


class FakeSwarm:
    def __init__(self) -> None:
        self.view: SwarmView | Exception | None = SwarmView("swarm", (WEB,), changing=False)
        self.takes_s = 0.0
        self.now_s = 100.0

    def look(self) -> SwarmView | None:
        self.now_s += self.takes_s
        if isinstance(self.view, Exception):
            raise self.view
        return self.view


class FakeRecords:
    """The swarm's one key in etcd; `holder`: the manager that has it."""

    def __init__(self) -> None:
        self.holder = ""
        self.published: tuple[Vip, ...] | None = None
        self.lost = False
        self.error: Exception | None = None

    def lead(self, swarm_id: str) -> bool:
        if self.error:
            raise self.error
        self.holder = self.holder or swarm_id
        return self.holder == swarm_id

    def resign(self) -> None:
        self.holder = ""

    def publish(self, services: Iterable[Vip]) -> bool:
        if self.holder != "swarm":
            raise Conflict("lost")
        self.published = tuple(services)
        return self.lost


class Manager:
    def __init__(self) -> None:
        self.swarm, self.records = FakeSwarm(), FakeRecords()
        self.publisher = VipPublisher(self.swarm, self.records,
                                          clock=lambda: self.swarm.now_s)

    def run(self) -> float:
        self.publisher.run()
        return self.publisher.pause_s()


def test_a_manager_publishes_and_looks_more_often_while_tasks_change() -> None:
    manager = Manager()
    assert manager.publisher.pause_s() == 0
    assert manager.run() == CALM_S
    assert manager.records.published == (WEB,)
    assert manager.publisher.describe() == "published by this manager"
    manager.swarm.view = SwarmView("swarm", (), changing=True)
    assert manager.run() == CHANGING_S
    assert manager.records.published == ()
    manager.swarm.takes_s = 2.0
    assert manager.run() == PAUSES * 2.0


def test_one_that_is_no_manager_or_cannot_tell_leaves_it_to_others() -> None:
    manager = Manager()
    for view in (None, EngineUnavailable("dockerd is away")):
        manager.swarm.view = SwarmView("swarm", (WEB,), changing=False)
        manager.run()
        assert manager.records.holder == "swarm"
        manager.swarm.view = view
        assert manager.run() == NO_MANAGER_S
        assert manager.records.holder == ""
        assert manager.records.published == (WEB,), "what is published stays"


def test_another_manager_holds_the_key_or_takes_it() -> None:
    manager = Manager()
    manager.records.holder = "another"
    assert manager.run() == CALM_S
    assert manager.records.published is None
    manager.records.holder = ""
    manager.run()
    manager.records.lead = lambda _: True  # type: ignore[method-assign]
    manager.records.holder = "another"  # since the last question
    manager.run()
    assert manager.publisher.describe() == "published elsewhere"


def test_only_the_manager_that_holds_the_key_asks_docker() -> None:
    manager = Manager()
    manager.records.holder = "another"
    manager.run()
    manager.swarm.view = EngineUnavailable("asked")
    assert manager.run() == CALM_S
    manager.records.holder = ""
    manager.run()
    assert manager.records.holder == "", "what it cannot publish it leaves to others"
    manager.swarm.view = SwarmView("swarm", (WEB,), changing=False)
    manager.run()
    assert manager.records.published == (WEB,)


def test_etcd_away() -> None:
    manager = Manager()
    manager.records.error = StoreUnavailable("etcd is away")
    with pytest.raises(StoreUnavailable):
        manager.publisher.run()
    assert manager.publisher.pause_s() == CALM_S
    manager.records.error = None
    manager.run()
    manager.publisher.stop()
    assert manager.records.holder == ""


def test_who_begins_to_lead_or_finds_something_lost_looks_for_more() -> None:
    manager = Manager()
    asked: list[str] = []
    manager.publisher.on_loss = lambda: asked.append(manager.publisher.leads())
    manager.records.holder = "another"
    manager.run()
    assert (asked, manager.publisher.leads()) == ([], "")
    manager.records.holder = ""
    for _ in range(2):
        manager.run()
    assert asked == ["swarm"]
    manager.records.lost = True
    manager.run()
    assert asked == ["swarm", "swarm"]
    manager.records.lost = False
    manager.swarm.view = None
    manager.run()
    assert (len(asked), manager.publisher.leads()) == (2, "")
