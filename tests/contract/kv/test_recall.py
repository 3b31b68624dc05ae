"""Tests remembering etcd's keys with the fake and a real etcd, and the requests that it saves."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import pytest

from driver.errors import NotFound
from driver.model import Endpoint, EndpointId, NetworkId, NetworkKey
from driver.store.endpoints import EtcdEndpoints
from driver.store.etcd.client import EtcdKeyValue
from driver.store.format import keys
from driver.store.kv.delegate import DelegatingKeyValue
from driver.store.kv.protocol import Delete, Entry, OutcomeUnknown, Put, Unchanged
from driver.store.kv.recall import KEPT, RecallingKeyValue
from driver.store.networks import EtcdNetworks
from tests.support.fakes.kv import FakeKeyValue, FaultyKeyValue
from tests.support.world.addressing import host_id, service

Kv = FakeKeyValue | EtcdKeyValue
HOST, NET = host_id(1), NetworkId("a" * 64)
CIDR = "10.77.0.0/24"


def test_what_was_written_is_recalled_as_etcd_has_it(kv: Kv) -> None:
    recalling = RecallingKeyValue(kv)
    assert recalling.recall("/a/1") is None
    assert recalling.commit([Unchanged("/a/1", 0)], [Put("/a/1", b"one"), Put("/a/2", b"two")])
    for key in ("/a/1", "/a/2"):
        assert recalling.recall(key) == kv.get(key)
        assert recalling.recall(key) is not None


def test_what_was_read_is_recalled(kv: Kv) -> None:
    kv.commit([], [Put("/a/1", b"one")])
    recalling = RecallingKeyValue(kv)
    assert recalling.get("/a/1") == recalling.recall("/a/1") == kv.get("/a/1")


def test_absence_is_never_recalled(kv: Kv) -> None:
    recalling = RecallingKeyValue(kv)
    assert recalling.commit([], [Put("/a/1", b""), Put("/a/2", b"")])
    assert recalling.commit([], [Delete("/a/1")])
    assert recalling.recall("/a/1") is None
    kv.commit([], [Delete("/a/2")])
    assert recalling.get("/a/2") is None
    assert recalling.recall("/a/2") is None


def test_what_a_refusal_was_compared_with_is_forgotten(kv: Kv) -> None:
    recalling = RecallingKeyValue(kv)
    revision = recalling.commit([], [Put("/a/1", b"mine")])
    kv.commit([], [Put("/a/1", b"theirs")])
    assert not recalling.commit([Unchanged("/a/1", revision)], [Put("/a/2", b"")])
    assert recalling.recall("/a/1") is None


def test_a_write_of_unknown_outcome_is_forgotten() -> None:
    faulty = FaultyKeyValue(FakeKeyValue(), lambda _: "")
    recalling = RecallingKeyValue(faulty)
    recalling.commit([], [Put("/a/1", b"one")])
    faulty.fails = lambda _: "after"
    with pytest.raises(OutcomeUnknown):
        recalling.commit([], [Put("/a/1", b"two")])
    assert recalling.recall("/a/1") is None


def test_what_goes_with_a_lease_is_not_remembered(kv: Kv) -> None:
    recalling = RecallingKeyValue(kv)
    lease = recalling.lease(60)
    recalling.commit([], [Put("/a/1", b"", lease.id)])
    assert recalling.recall("/a/1") is None
    lease.revoke()


def test_an_older_answer_that_comes_late_changes_nothing() -> None:
    kv = FakeKeyValue()

    class Late(DelegatingKeyValue):
        def get(self, key: str) -> Entry | None:
            answer = super().get(key)
            assert recalling.commit([], [Put(key, b"two")])
            return answer

    recalling = RecallingKeyValue(Late(kv))
    recalling.commit([], [Put("/a/1", b"one")])
    old = recalling.get("/a/1")
    assert old is not None
    assert old.value == b"one"
    assert recalling.recall("/a/1") == kv.get("/a/1") != old


def test_only_so_many_are_kept() -> None:
    recalling = RecallingKeyValue(FakeKeyValue())
    for number in range(KEPT + 10):
        recalling.commit([], [Put(f"/a/{number}", b"")])
    assert recalling.recall("/a/9") is None
    assert recalling.recall("/a/10") is not None


def test_how_often_etcd_is_asked_in_the_life_of_a_container() -> None:
    faulty = FaultyKeyValue(FakeKeyValue(), lambda _: "")
    kv = RecallingKeyValue(faulty)
    addresses, networks = service(kv), EtcdNetworks(kv, HOST)
    endpoints = EtcdEndpoints(kv, HOST, networks)
    pool_id = addresses.request_pool("slim-local", CIDR, "", v6=False, options={}).pool_id
    network = networks.create(NET, NetworkKey(f"pool:{CIDR}"), subnets=(CIDR,), internal=False,
                              mtu=0)
    assert (networks.list(), endpoints.list()) == ([network], [])  # read once, at the first call
    asked: list[int] = []

    def life(name: str) -> None:
        nonlocal asked
        begins = faulty.calls
        asked = []
        address = IPv4Interface(addresses.request_address(pool_id, "", options={}))
        asked.append(faulty.calls)
        endpoint = Endpoint(
            id=EndpointId(name * 64), network_id=NET, vni=network.vni, host=HOST,
            underlay=IPv4Address("198.18.0.1"), mac=bytes(6), address=address, address6=None,
            port=61000)
        endpoints.create(endpoint)
        asked.append(faulty.calls)
        endpoints.replace(endpoint)
        asked.append(faulty.calls)
        endpoints.delete(endpoint.id)
        asked.append(faulty.calls)
        addresses.release_address(pool_id, str(address.ip))
        asked.append(faulty.calls)
        asked = [after - before for before, after in zip([begins, *asked], asked, strict=False)]

    life("b")
    assert asked == [2, 1, 1, 2, 1], (
        "which addresses are free has to be asked, and for a lease of tombstones")
    life("c")
    assert asked == [1, 1, 1, 1, 1], "and is known for the next ones: all that is left are writes"


def test_what_others_have_removed_is_found_gone(kv: Kv) -> None:
    recalling = RecallingKeyValue(kv)
    networks = EtcdNetworks(recalling, HOST)
    endpoints = EtcdEndpoints(recalling, HOST, networks)
    network = networks.create(NET, NetworkKey(f"id:{NET}"), subnets=(CIDR,), internal=False, mtu=0)
    endpoint = Endpoint(
        id=EndpointId("b" * 64), network_id=NET, vni=network.vni, host=HOST,
        underlay=IPv4Address("198.18.0.1"), mac=bytes(6),
        address=IPv4Interface("10.77.0.2/24"), address6=None, port=61000)
    endpoints.create(endpoint)
    local = keys.local_endpoint(HOST, endpoint.id)
    kv.commit([], [Delete(local), Delete(keys.endpoint(network.vni, endpoint.id))])
    with pytest.raises(NotFound):
        endpoints.replace(endpoint)
    endpoints.create(endpoint)
    kv.commit([], [Delete(local), Delete(keys.endpoint(network.vni, endpoint.id))])
    endpoints.delete(endpoint.id)
    assert endpoints.get(endpoint.id) is None
    kv.commit([], [Delete(keys.local_network(HOST, NET))])
    with pytest.raises(NotFound):
        endpoints.create(endpoint)
    assert kv.get(local) is None
