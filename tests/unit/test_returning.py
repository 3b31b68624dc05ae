"""Others have removed this host's records: what runs on is entered again, or given up."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import pytest

from driver.errors import StoreUnavailable
from driver.forget import remove_records
from driver.model import Endpoint, EndpointId, NetworkId, Removal
from driver.services.returning import Returning
from driver.store import keys
from driver.store.absences import EtcdAbsences
from driver.store.endpoints import EtcdEndpoints
from driver.store.networks import EtcdNetworks
from tests.support.addressing import host_id, service
from tests.support.calls import Net
from tests.support.fake_kv import FakeKeyValue
from tests.support.whole import ME, Whole

NET = Net()


@pytest.fixture
def whole() -> Whole:
    """A host with one container."""
    made = Whole()
    made.recover()
    for call in (NET.request_pool(), NET.request_gateway(), NET.create_network(),
                 NET.request_address(), NET.create_endpoint(), NET.join(), NET.come_up()):
        call.act(made)
        made.settle()
    return made


def returning(whole: Whole) -> Returning:
    return Returning(networks=whole.networks._networks, endpoints=whole.endpoints._endpoints,
                     directory=whole.directory, services=whole.services,
                     service=whole.endpoints, reconciler=whole.recovery._reconciler)


def removed(whole: Whole, removal: Removal) -> FakeKeyValue:
    kv = FakeKeyValue(whole.store)
    absence = EtcdAbsences(kv).begin(ME.id, None, removal)
    assert absence is not None
    remove_records(kv, absence)
    assert kv.count(keys.local_endpoints(ME.id)) == 0
    whole.settle()
    return kv


def take_address(kv: FakeKeyValue) -> None:
    """Another host's container gets the address."""
    other = host_id(9)
    addresses = service(kv, 9)
    pool = addresses.request_pool("slim-local", NET.pool, "", v6=False, options={})
    addresses.request_address(pool.pool_id, str(NET.address), options={})
    networks = EtcdNetworks(kv, other)
    mine = EtcdNetworks(kv, ME.id).list()[0]
    network = networks.create(NetworkId("f" * 64), mine.key, subnets=mine.subnets,
                              internal=False, mtu=0)
    EtcdEndpoints(kv, other, networks).create(Endpoint(
        id=EndpointId("f" * 64), network_id=network.id, vni=network.vni, host=other,
        underlay=IPv4Address("192.0.2.99"), mac=bytes(6),
        address=IPv4Interface((NET.address, 24)), address6=None, port=61000))


def test_what_runs_is_on_record_again(whole: Whole) -> None:
    before = whole.view()
    removed(whole, Removal.ADDRESSES)
    assert returning(whole).run()
    whole.settle()
    after = whole.view()
    assert {k: v for k, v in after.items() if k != "etcd"} == {
        k: v for k, v in before.items() if k != "etcd"}
    assert whole.endpoints.get_endpoint(NET.id, NET.endpoint) is not None
    for call in (NET.leave(), NET.delete_endpoint()):  # and can be removed as ever
        call.act(whole)
        whole.settle()
    assert not whole.kernel.links


def test_what_lost_its_address_is_given_up(whole: Whole) -> None:
    take_address(removed(whole, Removal.ADDRESSES))
    assert returning(whole).run()
    whole.settle()
    assert whole.endpoints.get_endpoint(NET.id, NET.endpoint) is None
    assert not whole.kernel.links
    assert whole.ports.in_use() == 0
    assert whole.view()["sandboxes in memory"] == []
    assert whole.publisher.directory_size() == 1  # the other one's
    for call in (NET.leave(), NET.delete_endpoint(), NET.create_endpoint()):
        if call.name.startswith("CreateEndpoint"):
            with pytest.raises(Exception, match="belongs to endpoint"):
                call.act(whole)
        else:
            call.act(whole)  # Docker's removals succeed


def test_who_was_forgotten_keeps_nothing(whole: Whole) -> None:
    removed(whole, Removal.EVERYTHING)
    assert returning(whole).run()
    whole.settle()
    assert not whole.kernel.links
    assert whole.networks._networks.list() == []
    assert whole.publisher.directory_size() == 0
    assert whole.ports.in_use() == 0


def test_without_etcd_nothing_changes_and_then_it_goes_on(whole: Whole) -> None:
    removed(whole, Removal.ADDRESSES)
    back = returning(whole)
    whole.store.away = True
    before = dict(whole.kernel.view())
    with pytest.raises(StoreUnavailable):
        back.run()
    assert whole.kernel.view() == before
    whole.store.away = False
    assert back.run()
    assert whole.endpoints.get_endpoint(NET.id, NET.endpoint) is not None
