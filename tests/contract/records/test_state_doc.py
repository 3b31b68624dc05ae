"""Tests that docs/state.md has a line for every key and field that the driver writes."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from driver.model import (
    Endpoint,
    EndpointId,
    Host,
    KnownHost,
    NetworkId,
    NetworkKey,
    Seen,
    Vip,
)
from driver.state.host import ClusterFile, new_cluster
from driver.store.address_book import EtcdAddressBook
from driver.store.answers import EtcdAnswers, EtcdPublications
from driver.store.endpoints import EtcdEndpoints
from driver.store.format import keys
from driver.store.hosts.absences import EtcdAbsences
from driver.store.hosts.cluster import ClusterKeyValue
from driver.store.hosts.fence import FencedKeyValue
from driver.store.hosts.registry import EtcdHosts
from driver.store.kv.protocol import OutcomeUnknown
from driver.store.networks import EtcdNetworks
from driver.store.vips import EtcdVipRecords
from tests.support.fakes.kv import FakeKeyValue, FaultyKeyValue
from tests.support.run.wait import wait_until
from tests.support.world.addressing import host_id, service

HOST = host_id(1)
NETWORK = NetworkId("n" * 64)


def test_keys_and_fields_are_documented(project: Path, tmp_path: Path) -> None:
    kv = FakeKeyValue()
    addresses = service(kv)
    pool = addresses.request_pool("slim-local", "10.32.0.0/24", "", v6=False, options={})
    named = {"com.docker.network.endpoint.name": "web"}
    address = addresses.request_address(pool.pool_id, "", options=named)
    book = EtcdAddressBook(kv)
    read = book.subnet(pool.subnet)
    assert read.value is not None
    assert book.write_subnet(pool.subnet, read, replace(read.value, entered={"network": "swarm"}))
    networks = EtcdNetworks(kv, HOST)
    network = networks.create(NETWORK, NetworkKey("pool:10.32.0.0/24"),
                              subnets=(pool.subnet,), internal=False, mtu=0)
    endpoints = EtcdEndpoints(kv, HOST, networks)
    endpoint = Endpoint(
        id=EndpointId("e" * 64), network_id=NETWORK, vni=network.vni, host=HOST,
        underlay=IPv4Address("192.0.2.1"), mac=bytes(6), address=IPv4Interface(str(address)),
        address6=None, port=61000)
    endpoints.create(endpoint)
    gone = replace(endpoint, id=EndpointId("f" * 64), address=None)
    endpoints.create(gone)
    endpoints.delete(gone.id)
    raise_fence(kv)
    assert ClusterKeyValue(kv, ClusterFile(tmp_path), new_cluster).get("nothing") is None
    hosts = EtcdHosts(kv)
    hosts.register(Host(HOST, "one", IPv4Address("192.0.2.1")))
    wait_until(lambda: kv.get(keys.host(HOST)), 30, "the host's record")
    gone = KnownHost(Host(host_id(2), "two", IPv4Address("192.0.2.2")), 60)
    assert EtcdAbsences(kv).note(gone, None, Seen.GONE)
    published = EtcdVipRecords(kv, HOST)
    assert published.lead("swarm")
    for last in (9, 10):  # the first one goes
        published.publish([Vip(NETWORK, IPv4Address(f"10.32.0.{last}"), "web", ())])
    answers = EtcdAnswers(kv, HOST)
    answers.ask(HOST, 1)
    answers.say(1)
    EtcdPublications(kv).ask(1)
    text, _ = (project / "docs" / "state.md").read_text().split("## Kernel state")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    entries = kv.range(keys.ROOT).entries
    hosts.close()
    documented = set()
    for entry in entries:
        parts = entry.key.removeprefix(keys.ROOT).split("/")
        row = next((r for r in rows if matches(r[1].strip(" `").split("/"), parts)), None)
        assert row is not None, f"{entry.key} has no line"
        documented.add(row[1])
        for field in set(json.loads(entry.value)) - {"schema", "write"}:
            assert f"`{field}`" in row[2] or "as the next row" in row[2], f"{entry.key}: {field}"
    assert documented == {row[1] for row in rows}, "one of each kind was written"


def raise_fence(kv: FakeKeyValue) -> None:
    unanswered = FaultyKeyValue(kv, lambda n: "before" if n == 2 else "")
    fenced = FencedKeyValue(unanswered, HOST)
    with pytest.raises(OutcomeUnknown):
        fenced.commit([], [])
    fenced.get("x")


def matches(pattern: list[str], parts: list[str]) -> bool:
    return len(pattern) == len(parts) and all(
        p.startswith("<") or p == part for p, part in zip(pattern, parts, strict=True))
