"""What this host hears of its own records' loss."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address

import pytest

from driver.errors import StoreUnavailable
from driver.model import EndpointId, HostId, Network, NetworkId, NetworkKey, Vni
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys
from driver.store.kv.protocol import Delete, Put
from driver.store.own_records import Own, OwnRecords
from tests.support.fakes.kv import FakeKeyValue
from tests.support.run.wait import wait_until

ME, OTHER = HostId("a" * 32), HostId("b" * 32)
ENDPOINT, CIDR = EndpointId("e1"), "10.32.0.0/16"
ADDRESS = ip_address("10.32.0.2")
NETWORK = Network(NetworkId("n1"), NetworkKey(f"pool:{CIDR}"), Vni(7), (CIDR,))
MINE = {
    "endpoint": keys.endpoint(Vni(7), ENDPOINT), "own endpoint": keys.local_endpoint(ME, ENDPOINT),
    "network": keys.network(NETWORK.key), "own network": keys.local_network(ME, NETWORK.id),
    "member": keys.member(NETWORK.key, ME), "vni": keys.vni(7), "subnet": keys.subnet(CIDR),
    "address": keys.address(CIDR, ADDRESS), "owner": keys.owner(CIDR, ME, "web/1"),
}
OTHERS = {
    "endpoint": keys.endpoint(Vni(7), EndpointId("e2")),
    "own endpoint": keys.local_endpoint(OTHER, ENDPOINT),
    "deleted endpoint": keys.local_endpoint(ME, EndpointId("e2")),
    "network": keys.network(NetworkKey("pool:10.33.0.0/16")),
    "member": keys.member(NETWORK.key, OTHER), "vni": keys.vni(8),
    "subnet": keys.subnet("10.33.0.0/16"), "address": keys.address(CIDR, ip_address("10.32.0.3")),
    "address of another subnet": keys.address("10.33.0.0/16", ADDRESS), "host": keys.host(ME),
    "owner": keys.owner(CIDR, OTHER, "web/1"), "deleted owner": keys.owner(CIDR, ME, "web"),
    "question": keys.question(ME), "nobody's": keys.ENDPOINTS + "x", "odd": keys.ADDRESSES + "x/y",
}


class World:
    """Everything of both is in etcd; `asked` grows with each call, by its delay."""

    def __init__(self) -> None:
        self.kv = FakeKeyValue()
        self.kv.commit([], [Put(key, b"{}") for key in {*MINE.values(), *OTHERS.values()}])
        self.asked: list[float] = []
        self.feeds = Feeds(self.kv)
        self.broken = False
        self.records = OwnRecords(self.feeds, ME, Own(
            has_endpoint=self.has_endpoint, networks=lambda: [NETWORK],
            has_pool=lambda cidr: cidr == CIDR,
            has_address=lambda cidr, address: (cidr, address) == (CIDR, ADDRESS),
            has_owner=lambda cidr, owner: (cidr, owner) == (CIDR, "web/1")),
            self.asked.append)

    def has_endpoint(self, endpoint_id: EndpointId) -> bool:
        if self.broken:
            raise StoreUnavailable("the notes are not complete")
        return endpoint_id == ENDPOINT

    def remove(self, key: str) -> None:
        assert self.kv.commit([], [Delete(key)])


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    made.records.start()
    wait_until(lambda: made.asked == [0.0], 30, "the first look is asked for")
    yield made
    made.records.close()
    made.feeds.close()


@pytest.mark.parametrize("which", MINE)
def test_own_loss_is_heard_others_is_not(world: World, which: str) -> None:
    for key in OTHERS.values():
        world.remove(key)
    world.remove(MINE[which])
    wait_until(lambda: len(world.asked) > 1, 30, "another look")
    assert len(world.asked) == 2


def test_what_is_written_is_not_heard(world: World) -> None:
    for key in MINE.values():
        world.kv.commit([], [Put(key, b"{}")])
    world.remove(MINE["address"])
    wait_until(lambda: len(world.asked) > 1, 30, "another look")
    assert len(world.asked) == 2


def test_in_doubt_it_looks(world: World) -> None:
    world.broken = True
    world.remove(OTHERS["endpoint"])
    wait_until(lambda: len(world.asked) > 1, 30, "another look")


def test_keys_are_read_back() -> None:
    for cidr, text in ((CIDR, "10.32.0.2"), ("fd00::/64", "fd00::2")):
        key = keys.address(cidr, ip_address(text))
        assert (keys.subnet_of_address(key), keys.address_of(key)) == (cidr, ip_address(text))
    assert keys.address_of(MINE["address"]) == IPv4Address("10.32.0.2")
