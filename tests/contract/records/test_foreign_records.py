"""Tests foreign values in place of records: the driver names them, for every kind, and keeps them.

A newer driver may share the cluster, and somebody may err with etcdctl; neither may cost more than
the one record.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from driver.errors import UnsupportedRecord
from driver.model import Endpoint, EndpointId, Host, HostId
from driver.store.address_book import EtcdAddressBook
from driver.store.endpoints import EtcdEndpoints
from driver.store.etcd.client import EtcdKeyValue
from driver.store.feeds.directory import EtcdDirectory
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys, records
from driver.store.hosts.absences import EtcdAbsences
from driver.store.hosts.registry import HostFeed
from driver.store.kv.protocol import Put
from driver.store.networks import EtcdNetworks
from tests.contract.records.test_store import HOST_A, NET_A, POOL, Heard, create, endpoint
from tests.support.fakes.kv import FakeKeyValue
from tests.support.run.wait import wait_until

Kv = FakeKeyValue | EtcdKeyValue
CIDR, OWN = "10.32.0.0/16", IPv4Address("10.32.0.2")
EP = EndpointId(f"{1:064}")

GARBAGE = {
    "empty": b"", "no JSON": b"slim", "no UTF-8": b"\xff\xfe", "a list": b"[]", "null": b"null",
    "a number": b"7", "no schema": b"{}", "deep": b"[" * 200_000, "only schema": b'{"schema":1}',
    "schema is text": b'{"schema":"1"}', "schema is true": b'{"schema":true}',
    "schema is a fraction": b'{"schema":1.0}', "older": b'{"schema":0,"id":"x"}',
    "newer": b'{"schema":2,"id":"x"}',
    "all wrong": json.dumps({"schema": 1} | {name: [1] for name in (
        "id", "key", "vni", "members", "subnets", "internal", "mtu", "network_id", "host", "mac",
        "underlay", "address", "address6", "port", "cidr", "gateway", "pools", "holds", "endpoint",
        "name", "return_after_s", "clock", "removal")}).encode(),
}

READS: dict[str, tuple[str, Callable[[Kv], object]]] = {
    "network": (keys.network(POOL), lambda kv: create(EtcdNetworks(kv, HOST_A))),
    "host's network": (keys.local_network(HOST_A, NET_A),
                       lambda kv: create(EtcdNetworks(kv, HOST_A))),
    "subnet": (keys.subnet(CIDR), lambda kv: EtcdAddressBook(kv).subnet(CIDR)),
    "reservation": (keys.address(CIDR, OWN), lambda kv: EtcdAddressBook(kv).reservation(CIDR, OWN)),
    "all reservations": (keys.address(CIDR, OWN),
                         lambda kv: EtcdAddressBook(kv).reservations(CIDR)),
    "owner": (keys.owner(CIDR, "holder", "owner"),
              lambda kv: EtcdAddressBook(kv).owned(CIDR, "holder", "owner")),
    "absence": (keys.absent(HOST_A), lambda kv: EtcdAbsences(kv).get(HOST_A)),
}


def _put(kv: Kv, key: str, value: bytes) -> None:
    kv.commit([], [Put(key, value)])


def _value(kv: Kv, key: str) -> bytes:
    entry = kv.get(key)
    assert entry is not None
    return entry.value


@pytest.mark.parametrize("kind", READS)
def test_it_is_refused_by_name_and_left_alone(kv: Kv, kind: str) -> None:
    key, read = READS[kind]
    for name, value in GARBAGE.items():
        _put(kv, key, value)
        with pytest.raises(UnsupportedRecord) as refused:
            read(kv)
        said = str(refused.value)
        assert key in said, name
        assert "left alone" in said, name
        assert len(said) < 500, name
        assert _value(kv, key) == value, name
        assert [entry.key for entry in kv.range(keys.ROOT).entries] == [key], name


def test_a_newer_one_says_what_to_do(kv: Kv) -> None:
    _put(kv, keys.subnet(CIDR), GARBAGE["newer"])
    with pytest.raises(UnsupportedRecord, match=r"schema 2.*upgrade this driver"):
        EtcdAddressBook(kv).subnet(CIDR)


def _record(made: Endpoint, **changes: object) -> bytes:
    return records.encode({**records.shared_endpoint_fields(made), **changes})


@pytest.mark.parametrize("changes", [
    {"port": 65536}, {"port": -1}, {"port": 61000.0}, {"vni": 0}, {"vni": 1 << 24},
    {"underlay": 3325256709}, {"underlay": "fe80::1"}, {"underlay": ""}, {"address": 7},
    {"address": "10.32.0.2/33"}, {"address6": "10.32.0.2/16"}, {"address": ["10.32.0.2", 16]},
    {"mac": "02"}, {"mac": None}, {"id": 1}, {"host": None}])
def test_fields_out_of_bounds(kv: Kv, feeds: Feeds, changes: dict[str, object]) -> None:
    """They must not reach the kernel's maps."""
    networks = EtcdNetworks(kv, HOST_A)
    create(networks)
    made = endpoint(networks)
    key = keys.endpoint(made.vni, EP)
    _put(kv, key, _record(made, **changes))
    listener, directory = Heard(), EtcdDirectory(feeds, kv)
    directory.follow(made.vni, listener)
    try:
        wait_until(lambda: listener.snapshots > 0, 30, "a snapshot")
        assert (listener.endpoints, listener.bad) == ({}, [EP])
    finally:
        directory.close()
    _put(kv, keys.local_endpoint(HOST_A, EP), _record(made, **changes))
    with pytest.raises(UnsupportedRecord, match="left alone"):
        EtcdEndpoints(kv, HOST_A, networks).delete(EP)


@pytest.mark.parametrize("before", [True, False], ids=["there at start", "comes later"])
def test_the_directory_goes_on_without_it(kv: Kv, feeds: Feeds, before: bool) -> None:
    """Bad records among a network's endpoints cost only these endpoints."""
    networks = EtcdNetworks(kv, HOST_A)
    vni = create(networks)
    prefix = keys.endpoints(vni)
    bad = {f"{prefix}bad{n}": value for n, value in enumerate(GARBAGE.values())}
    bad |= {f"{prefix}a/b": b"{}", prefix: b"{}", keys.endpoint(vni, EndpointId("f" * 64)): _record(
        endpoint(networks, 2))}
    listener, directory = Heard(), EtcdDirectory(feeds, kv)
    if before:
        for key, value in bad.items():
            _put(kv, key, value)
    directory.follow(vni, listener)
    try:
        wait_until(lambda: listener.snapshots > 0, 30, "a snapshot")
        if not before:
            for key, value in bad.items():
                _put(kv, key, value)
        EtcdEndpoints(kv, HOST_A, networks).create(endpoint(networks))
        wait_until(lambda: set(listener.endpoints) == {EP}, 30, "the good one")
        assert set(listener.bad) == {keys.endpoint_of(key)[1] for key in bad
                                     if not key.endswith("/b")}, "as the keys say"
        assert listener.snapshots == 1
        assert {key: _value(kv, key) for key in bad} == bad
    finally:
        directory.close()


def test_hosts_of_drivers_that_know_no_probes() -> None:
    host = Host(HostId("c" * 32), "c", IPv4Address("192.0.2.3"), answers_probes=True)
    fields = json.loads(records.encode(records.host_fields(host)))
    assert records.host(fields) == host
    del fields["answers_probes"]
    assert records.host(fields) == replace(host, answers_probes=False)


def test_the_list_of_hosts_goes_on_without_it(kv: Kv, feeds: Feeds) -> None:
    good = Host(HostId("c" * 32), "c", IPv4Address("192.0.2.3"))
    bad = {keys.host(HostId(f"bad{n}")): value for n, value in enumerate(GARBAGE.values())}
    for key, value in bad.items():
        _put(kv, key, value)
    _put(kv, keys.host(good.id), records.encode(records.host_fields(good)))
    seen: list[dict[HostId, Host]] = []
    feeds.follow(keys.HOSTS, HostFeed(seen.append))
    wait_until(lambda: bool(seen) and seen[-1] == {good.id: good}, 30, "the good host alone")
    assert {key: _value(kv, key) for key in bad} == bad
    assert EtcdAbsences(kv).known() == {}
