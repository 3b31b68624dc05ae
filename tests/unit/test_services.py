"""Services' addresses: what is mirrored into the maps, and who publishes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest

from driver.errors import Conflict, DatapathError, EngineUnavailable, StoreUnavailable
from driver.model import Network, NetworkId, NetworkKey, Service, Vni
from driver.services.ports import SwarmView
from driver.services.service_mirror import ServiceMirror
from driver.services.service_publisher import (
    CALM_S,
    CHANGING_S,
    NO_MANAGER_S,
    PAUSES,
    ServicePublisher,
)
from tests.support.fakes import FakeDatapath, FakeServiceFeed, Faults

NET = NetworkId("8c1f0" * 5)
NETWORK = Network(NET, NetworkKey("pool:10.32.0.0/16"), Vni(7), ("10.32.0.0/16",))
VIP, OTHER = IPv4Address("10.32.0.9"), IPv4Address("10.32.0.10")
TASKS = (IPv4Address("10.32.0.2"), IPv4Address("10.32.0.3"))
WEB = Service(NET, VIP, "web", TASKS)


@dataclass
class Host:
    faults: Faults = field(default_factory=lambda: Faults(error=DatapathError))

    def __post_init__(self) -> None:
        self.datapath = FakeDatapath(self.faults)
        self.restart()

    def restart(self) -> None:
        self.feed = FakeServiceFeed(self.faults)
        self.mirror = ServiceMirror(self.feed, self.datapath)

    def heard(self, *services: Service) -> None:
        self.feed.live[NET].snapshot(NET, services)

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
    listener.removed(NET, VIP)
    assert host.served == {OTHER: TASKS}
    host.heard(WEB)  # after a time without a watch
    assert host.served == {VIP: TASKS}


def test_nothing_is_left_of_a_network_that_goes(host: Host) -> None:
    host.heard(WEB)
    listener = host.feed.live[NET]
    host.mirror.unfollow(NETWORK)
    assert (host.served, host.feed.live, host.mirror.count()) == ({}, {}, 0)
    listener.put(WEB)  # a call that was under way
    listener.snapshot(NET, [WEB])
    listener.removed(NET, VIP)
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
    host.datapath.services[Vni(8), VIP] = TASKS  # of a network that has gone meanwhile
    host.restart()
    host.mirror.follow(NETWORK)
    host.mirror.followed([NETWORK])
    assert host.datapath.services == {(7, VIP): TASKS, (7, OTHER): TASKS}
    host.heard(replace(WEB, backends=()))
    assert host.served == {VIP: ()}


def test_a_network_whose_option_was_switched_off_is_dropped_at_the_next_start(host: Host) -> None:
    host.heard(WEB)
    host.restart()
    off = replace(NETWORK, vip=False)
    host.mirror.follow(off)
    host.mirror.followed([off])
    assert host.datapath.services == {}


@pytest.mark.parametrize("after", [False, True])
def test_what_the_maps_refuse_is_tried_again(host: Host, after: bool) -> None:
    def fail() -> None:
        host.faults.reset()
        host.faults.fail_at, host.faults.after = 1, after

    fail()
    host.heard(WEB)
    host.faults.reset()
    host.mirror.retry()
    assert host.served == {VIP: TASKS}
    fail()
    host.feed.live[NET].removed(NET, VIP)
    host.faults.reset()
    host.mirror.retry()
    assert host.served == {}
    host.mirror.retry()
    assert host.faults.done == ["datapath.delete_service"]  # once, and not for ever


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
    """One key of the swarm in etcd; `holder`: who has it."""

    def __init__(self) -> None:
        self.holder = ""
        self.published: tuple[Service, ...] | None = None
        self.error: Exception | None = None

    def lead(self, swarm_id: str) -> bool:
        if self.error:
            raise self.error
        self.holder = self.holder or swarm_id
        return self.holder == swarm_id

    def resign(self) -> None:
        self.holder = ""

    def publish(self, services: Iterable[Service]) -> None:
        if self.holder != "swarm":
            raise Conflict("lost")
        self.published = tuple(services)


class Manager:
    def __init__(self) -> None:
        self.swarm, self.records = FakeSwarm(), FakeRecords()
        self.publisher = ServicePublisher(self.swarm, self.records,
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
    manager.records.holder = "another"  # since it was asked
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
