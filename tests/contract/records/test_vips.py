"""Tests vips in etcd: one publisher for each swarm, and the feed of every host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from driver.errors import Conflict
from driver.model import NetworkId, Vip
from driver.services.ports import VipLeft, VipSaid, VipUnreadable
from driver.store.answers import EtcdPublications
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys, records
from driver.store.hosts.fence import FencedKeyValue
from driver.store.kv.protocol import Delete, KeyValue, Put
from driver.store.vips import COMPARE_S, OPS, EtcdVipFeed, EtcdVipRecords
from tests.support.fakes.kv import LeaseNoting
from tests.support.run.wait import wait_until
from tests.support.world.addressing import host_id
from tests.support.world.etcd import live

NET = NetworkId("8c1f0" * 5)
WEB = Vip(NET, IPv4Address("10.32.0.9"), "web",
              (IPv4Address("10.32.0.2"), IPv4Address("10.32.0.3")))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Heard:
    def __init__(self) -> None:
        self.services: dict[IPv4Address, Vip] = {}
        self.snapshots = 0
        self.gone: list[IPv4Address] = []
        self.bad: list[IPv4Address] = []
        self.lost: list[tuple[IPv4Address, int]] = []

    def snapshot(self, network_id: NetworkId, said: Iterable[VipSaid], revision: int) -> None:
        assert network_id == NET
        assert revision > 0
        said = list(said)
        self.services = {one.address: one for one in said if isinstance(one, Vip)}
        self.bad = [one.address for one in said if isinstance(one, VipUnreadable)]
        self.gone = [one.address for one in said if isinstance(one, VipLeft)]
        self.snapshots += 1

    def put(self, service: Vip) -> None:
        self.services[service.address] = service

    def left(self, network_id: NetworkId, address: IPv4Address) -> None:
        assert network_id == NET
        self.services.pop(address, None)
        self.gone.append(address)

    def missing(self, network_id: NetworkId, address: IPv4Address, revision: int) -> None:
        assert network_id == NET
        self.lost.append((address, revision))

    def unreadable(self, network_id: NetworkId, address: IPv4Address) -> None:
        assert network_id == NET
        self.bad.append(address)


def count(kv: KeyValue) -> int:
    return len(live(kv.range(keys.SERVICES).entries))


def manager(kv: KeyValue, number: int, clock: Clock | None = None) -> EtcdVipRecords:
    return EtcdVipRecords(FencedKeyValue(kv, host_id(number)), host_id(number),
                              clock or Clock())


def test_every_host_hears_what_one_manager_publishes(kv: KeyValue, feeds: Feeds) -> None:
    one, feed, heard = manager(kv, 1), EtcdVipFeed(feeds, kv), Heard()
    assert one.lead("swarm")
    one.publish([WEB])
    feed.follow(NET, heard)  # type: ignore[arg-type]
    feed.follow(NET, heard)  # type: ignore[arg-type]
    wait_until(lambda: heard.services == {WEB.address: WEB}, 30, "the first listing")
    changed = replace(WEB, backends=WEB.backends[:1])
    other = replace(WEB, address=IPv4Address("10.32.0.10"), name="db")
    one.publish([changed, other])
    wait_until(lambda: heard.services == {WEB.address: changed, other.address: other}, 30,
               "the changes")
    one.publish([other])
    wait_until(lambda: heard.services == {other.address: other}, 30, "the removal")
    feed.unfollow(NET)
    one.publish([])
    assert heard.services == {other.address: other}
    assert count(kv) == 0
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
    assert count(kv) == 1, "another swarm's services are left alone"
    clock.now_s = 100.0
    assert one.lead("swarm")
    one.resign()
    assert two.lead("swarm")
    two.publish([])
    assert count(kv) == 0
    two.resign()
    assert kv.count(keys.PUBLISHERS) == 0


def test_one_that_was_away_for_too_long_writes_nothing(kv: KeyValue) -> None:
    noting = LeaseNoting(kv)
    one, two = manager(noting, 1), manager(kv, 2)
    assert one.lead("swarm")
    one.publish([WEB])
    lease, = noting.leases
    lease.revoke()  # as when it expires
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
    assert count(kv) == 1
    third = manager(kv, 1)  # it first reads what others have written
    assert third.lead("swarm")
    third.publish([])
    assert count(kv) == 0
    third.resign()


def test_more_services_than_one_transaction_takes(kv: KeyValue) -> None:
    many = [replace(WEB, address=IPv4Address(int(WEB.address) + n)) for n in range(2 * OPS + 1)]
    one = manager(kv, 1)
    assert one.lead("swarm")
    one.publish(many)
    assert count(kv) == len(many)
    one.publish([])
    assert count(kv) == 0
    one.resign()


def test_records_that_nobody_of_ours_wrote(kv: KeyValue, feeds: Feeds) -> None:
    one, feed, heard = manager(kv, 1), EtcdVipFeed(feeds, kv), Heard()
    kv.commit([], [Put(keys.service(NET, IPv4Address("10.32.0.11")), b"{}"),
                   Put(keys.services(NET) + "what", b"x"),
                   Put(keys.service(NET, IPv4Address("10.32.0.12")), records.encode(
                       records.service_fields(WEB, "other")))])
    assert one.lead("swarm")
    one.publish([WEB])
    feed.follow(NET, heard)  # type: ignore[arg-type]
    wait_until(lambda: heard.services == {WEB.address: WEB}, 30, "the one that is ours")
    kv.commit([], [Put(keys.service(NET, WEB.address), b"spoilt")])
    wait_until(lambda: WEB.address in heard.bad, 30, "what cannot be read to be told of")
    assert heard.services == {WEB.address: WEB}
    kv.commit([], [Put(keys.services(NET) + "what", b"y"),
                   Put(keys.service(NET, WEB.address), records.encode(
                       records.service_fields(WEB, "swarm")))])
    other = replace(WEB, address=IPv4Address("10.32.0.10"))
    one.publish([WEB, other])
    wait_until(lambda: other.address in heard.services, 30, "the rest of the feed")
    assert heard.bad == [IPv4Address("10.32.0.11"), IPv4Address("10.32.0.12"), WEB.address]
    feed.close()
    one.resign()


def test_a_removal_is_said(kv: KeyValue, feeds: Feeds) -> None:
    one, feed, heard = manager(kv, 1), EtcdVipFeed(feeds, kv), Heard()
    assert one.lead("swarm")
    one.publish([WEB])
    feed.follow(NET, heard)  # type: ignore[arg-type]
    wait_until(lambda: heard.services, 30, "the first listing")
    assert heard.services[WEB.address].swarm == "swarm"
    one.publish([])
    wait_until(lambda: heard.gone == [WEB.address], 30, "its end")
    again, later = EtcdVipFeed(feeds, kv), Heard()
    again.follow(NET, later)  # type: ignore[arg-type]
    wait_until(lambda: later.gone == [WEB.address], 30, "its end, in a list")
    assert list(feed.read(NET)) == [VipLeft(WEB.address)]
    one.publish([WEB])
    wait_until(lambda: heard.services == {WEB.address: WEB}, 30, "its return")
    kv.commit([], [Delete(keys.service(NET, WEB.address))])
    wait_until(lambda: [address for address, _ in heard.lost] == [WEB.address], 30, "the loss")
    assert heard.services == {WEB.address: WEB}
    for each in (feed, again):
        each.close()
    one.resign()


def test_what_is_lost_is_published_again_and_said_to_be_all(kv: KeyValue) -> None:
    clock = Clock()
    one, publications = manager(kv, 1, clock), EtcdPublications(kv)
    assert one.lead("swarm")
    one.publish([WEB])
    kv.commit([], [Delete(keys.service(NET, WEB.address))])
    lost = kv.range(keys.ROOT).revision
    publications.ask(lost)
    assert not one.publish([WEB]), "not looked at yet"
    clock.now_s += COMPARE_S
    assert one.publish([WEB])
    assert count(kv) == 1
    assert publications.all() == {"swarm": 0}, "not all was there when it was looked at"
    clock.now_s += COMPARE_S
    assert not one.publish([WEB])
    assert publications.all()["swarm"] >= lost
    one.publish([])  # it still has the key
    assert count(kv) == 0
    before = kv.range(keys.ROOT).revision
    clock.now_s += COMPARE_S
    one.publish([])
    assert kv.range(keys.ROOT).revision == before, "nobody has asked for more"
    one.resign()


def test_all_is_lost_and_published_again(kv: KeyValue) -> None:
    clock = Clock()
    one = manager(kv, 1, clock)
    assert one.lead("swarm")
    one.publish([WEB])
    kv.commit([], [Delete(entry.key) for entry in kv.range(keys.ROOT).entries])
    clock.now_s += COMPARE_S
    with pytest.raises(Conflict):
        one.publish([WEB])
    assert one.lead("swarm")
    one.publish([WEB])
    assert count(kv) == 1
    one.resign()
