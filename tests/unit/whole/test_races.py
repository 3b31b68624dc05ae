"""Calls that meet: each order that a seed gives must end as if one had come after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_network
from types import SimpleNamespace

import pytest

from driver.model import Network, NetworkId, NetworkKey, Removal
from driver.services.networks.following import Following
from driver.services.networks.lifecycle import NetworkPool, NetworkService
from driver.services.upkeep import reconcile
from driver.store.format import keys, records
from driver.store.networks import EtcdNetworks
from driver.work import contended, locks
from tests.support.fakes.kv import FakeKeyValue, FakeStore
from tests.support.fakes.ports import FakeListener, World
from tests.support.faults.calls import Net
from tests.support.faults.interleave import Interleaving
from tests.support.world.addressing import host_id
from tests.support.world.whole import Whole
from tests.unit.upkeep.test_entering import removed

SEEDS = range(60)
NET, NET2 = NetworkId("8c1f" * 16), NetworkId("77aa" * 16)
POOLS = [NetworkPool("slim-local", ip_network("10.50.0.0/16"))]


@contextmanager
def named(seed: int) -> Iterator[pytest.MonkeyPatch]:
    """Name the seed in a failure; what the block patches is as before afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            yield patch
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


class Shared:
    """A host on which two Docker networks with one subnet come and go."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.interleaving = Interleaving(seed)
        self.interleaving.replace_locks(monkeypatch, locks)
        self.world = World()
        networks = self.interleaving.wrap(self.world.networks)
        self.following = Following(networks, self.interleaving.wrap(self.world.directory),
                                   FakeListener(), self.world.vips)
        self.service = NetworkService(networks, self.following, self.world.endpoint_service)

    def create(self, network_id: NetworkId) -> Network:
        return self.service.create_network(network_id, POOLS, {}, internal=False)

    def delete(self, network_id: NetworkId) -> None:
        self.service.delete_network(network_id)

    def assert_followed(self) -> None:
        """As long as, and no longer than, a network is on record."""
        assert self.world.directory.live == {
            network.vni for network in self.world.networks.live.values()}


def create_and_delete(host: Shared) -> list[Callable[[], object]]:
    host.create(NET)
    return [partial(host.delete, NET), partial(host.create, NET2)]


def delete_both(host: Shared) -> list[Callable[[], object]]:
    host.create(NET)
    host.create(NET2)
    return [partial(host.delete, NET), partial(host.delete, NET2)]


def delete_what_a_start_finds(host: Shared) -> list[Callable[[], object]]:
    found = host.create(NET)
    return [partial(host.delete, NET), partial(host.following.resume, found)]


@pytest.mark.parametrize("prepare", [create_and_delete, delete_both, delete_what_a_start_finds])
def test_networks_of_one_subnet_are_followed_while_there_is_one(
        prepare: Callable[[Shared], list[Callable[[], object]]]) -> None:
    for seed in SEEDS:
        with named(seed) as patch:
            host = Shared(seed, patch)
            host.interleaving.run(*prepare(host))
            host.assert_followed()


def test_records_are_brought_in_line_by_one_at_a_time() -> None:
    """The start's look and the return of what others removed: neither takes the other's away."""
    for seed in SEEDS:
        with named(seed) as patch:
            bring_in_line(seed, patch)


def bring_in_line(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    interleaving = Interleaving(seed)
    interleaving.replace_locks(monkeypatch, reconcile)
    net = Net()
    whole = Whole(between=interleaving.wrap)
    whole.recover()
    for call in (net.request_pool(), net.request_gateway(), net.create_network(),
                 net.request_address(), net.create_endpoint(), net.join(), net.come_up()):
        call.act(whole)
        whole.settle()
    links = dict(whole.kernel.links)
    removed(whole, Removal.ADDRESSES)
    interleaving.run(whole.entering.run, whole.reconciler.run)
    whole.settle()
    assert whole.kernel.links == links, "what runs has its interface"
    assert whole.endpoints.get_endpoint(net.id, net.endpoint) is not None


def test_a_network_is_there_exactly_while_a_host_has_it() -> None:
    """Two hosts go while a third one comes, and goes as well."""
    for seed in range(150):
        with named(seed) as patch:
            two_go_and_one_comes(seed, patch)


def two_go_and_one_comes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    interleaving = Interleaving(seed)
    monkeypatch.setattr(contended, "time", SimpleNamespace(
        monotonic=lambda: 0.0, sleep=lambda _: interleaving.point()))
    store = FakeStore()
    hosts = [EtcdNetworks(interleaving.wrap(FakeKeyValue(store)), host_id(number))
             for number in range(3)]
    key, kv = NetworkKey("pool:10.50.0.0/16"), FakeKeyValue(store)

    def come(networks: EtcdNetworks) -> Network:
        return networks.create(NET, key, subnets=("10.50.0.0/16",), internal=False, mtu=0)

    def come_and_go() -> None:
        vni = come(hosts[2]).vni
        owner, shared = kv.get(keys.vni(vni)), kv.get(keys.network(key))
        assert owner is not None, "its number is nobody else's"
        assert records.decode(owner, records.owner_of_vni) == key
        assert shared is not None
        assert records.decode(shared, records.vni) == vni
        hosts[2].delete(NET)

    come(hosts[0])
    come(hosts[1])
    interleaving.run(partial(hosts[0].delete, NET), partial(hosts[1].delete, NET), come_and_go)
    assert kv.range(keys.ROOT).entries == (), "the last one has removed it"
