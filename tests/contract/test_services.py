"""Services in etcd: one publisher for each swarm, and the feed of every host."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from driver.errors import Conflict
from driver.model import NetworkId, Service
from driver.store import keys, records
from driver.store.fence import FencedKeyValue
from driver.store.kv import KeyValue, Put
from driver.store.services import OPS, EtcdServiceFeed, EtcdServiceRecords
from tests.support.addressing import host_id
from tests.support.wait import wait_until

NET = NetworkId("8c1f0" * 5)
WEB = Service(NET, IPv4Address("10.32.0.9"), "web",
              (IPv4Address("10.32.0.2"), IPv4Address("10.32.0.3")))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Heard:
    def __init__(self) -> None:
        self.services: dict[IPv4Address, Service] = {}
        self.snapshots = 0

    def snapshot(self, network_id: NetworkId, services: list[Service]) -> None:
        assert network_id == NET
        self.services = {service.address: service for service in services}
        self.snapshots += 1

    def put(self, service: Service) -> None:
        self.services[service.address] = service

    def removed(self, network_id: NetworkId, address: IPv4Address) -> None:
        assert network_id == NET
        self.services.pop(address, None)


def manager(kv: KeyValue, number: int, clock: Clock | None = None) -> EtcdServiceRecords:
    return EtcdServiceRecords(FencedKeyValue(kv, host_id(number)), host_id(number),
                              clock or Clock())


def test_every_host_hears_what_one_manager_publishes(kv: KeyValue) -> None:
    one, feed, heard = manager(kv, 1), EtcdServiceFeed(kv), Heard()
    assert one.lead("swarm")
    one.publish([WEB])
    feed.follow(NET, heard)  # type: ignore[arg-type]
    feed.follow(NET, heard)  # type: ignore[arg-type]
    wait_until(lambda: heard.services == {WEB.address: WEB}, 5, "the first listing")
    changed = replace(WEB, backends=WEB.backends[:1])
    other = replace(WEB, address=IPv4Address("10.32.0.10"), name="db")
    one.publish([changed, other])
    wait_until(lambda: heard.services == {WEB.address: changed, other.address: other}, 5,
               "the changes")
    one.publish([other])
    wait_until(lambda: heard.services == {other.address: other}, 5, "the removal")
    feed.unfollow(NET)
    one.publish([])
    assert heard.services == {other.address: other}
    assert kv.count(keys.SERVICES) == 0
    feed.close()


def test_only_one_manager_publishes(kv: KeyValue) -> None:
    clock = Clock()
    one, two = manager(kv, 1, clock), manager(kv, 2)
    assert one.lead("swarm")
    assert not two.lead("swarm")
    with pytest.raises(Conflict):
        two.publish([WEB])
    assert two.lead("another swarm")
    one.publish([WEB])
    two.publish([])
    assert kv.count(keys.SERVICES) == 1, "another swarm's services are left alone"
    clock.now_s = 100.0
    assert one.lead("swarm")
    one.resign()
    assert two.lead("swarm")
    two.publish([])
    assert kv.count(keys.SERVICES) == 0
    two.resign()
    assert kv.count(keys.PUBLISHERS) == 0


def test_one_that_was_away_for_too_long_writes_nothing(kv: KeyValue) -> None:
    one, two = manager(kv, 1), manager(kv, 2)
    assert one.lead("swarm")
    one.publish([WEB])
    lease = one._lease
    assert lease is not None
    lease.revoke()
    assert two.lead("swarm")
    two.publish([replace(WEB, backends=())])
    with pytest.raises(Conflict, match="another host"):
        one.publish([])
    entry = kv.get(keys.service(NET, WEB.address))
    assert entry is not None
    assert records.decode(entry, records.service).backends == ()
    assert not one.lead("swarm")
    two.resign()


def test_a_driver_that_comes_back_goes_on_at_once(kv: KeyValue) -> None:
    assert manager(kv, 1).lead("swarm")
    again = manager(kv, 1)
    assert again.lead("swarm")
    again.publish([WEB])
    assert kv.count(keys.SERVICES) == 1
    third = manager(kv, 1)  # what it has not written itself it reads first
    assert third.lead("swarm")
    third.publish([])
    assert kv.count(keys.SERVICES) == 0
    third.resign()


def test_more_services_than_one_transaction_takes(kv: KeyValue) -> None:
    many = [replace(WEB, address=IPv4Address(int(WEB.address) + n)) for n in range(2 * OPS + 1)]
    one = manager(kv, 1)
    assert one.lead("swarm")
    one.publish(many)
    assert kv.count(keys.SERVICES) == len(many)
    one.publish([])
    assert kv.count(keys.SERVICES) == 0
    one.resign()


def test_records_that_nobody_of_ours_wrote(kv: KeyValue) -> None:
    one, feed, heard = manager(kv, 1), EtcdServiceFeed(kv), Heard()
    kv.commit([], [Put(keys.service(NET, IPv4Address("10.32.0.11")), b"{}"),
                   Put(keys.services(NET) + "what", b"x"),
                   Put(keys.service(NET, IPv4Address("10.32.0.12")), records.encode(
                       records.service_fields(WEB, "other")))])
    assert one.lead("swarm")
    one.publish([WEB])
    feed.follow(NET, heard)  # type: ignore[arg-type]
    wait_until(lambda: heard.services == {WEB.address: WEB}, 5, "the one that is ours")
    kv.commit([], [Put(keys.service(NET, WEB.address), b"spoilt")])
    wait_until(lambda: heard.services == {}, 5, "what cannot be read to be taken out")
    kv.commit([], [Put(keys.services(NET) + "what", b"y"),
                   Put(keys.service(NET, WEB.address), records.encode(
                       records.service_fields(WEB, "swarm")))])
    wait_until(lambda: heard.services == {WEB.address: WEB}, 5, "the rest of the feed")
    feed.close()
    one.resign()
