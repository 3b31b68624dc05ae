"""docs/state.md has a line for every key and every field that the driver writes."""

from __future__ import annotations

import json
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
    Service,
)
from driver.store import keys
from driver.store.absences import EtcdAbsences
from driver.store.endpoints import EtcdEndpoints
from driver.store.fence import FencedKeyValue
from driver.store.hosts import EtcdHosts
from driver.store.kv import OutcomeUnknown
from driver.store.networks import EtcdNetworks
from driver.store.services import EtcdServiceRecords
from tests.support.addressing import host_id, service
from tests.support.fake_kv import FakeKeyValue, FaultyKeyValue
from tests.support.wait import wait_until

HOST = host_id(1)
NETWORK = NetworkId("n" * 64)


def test_keys_and_fields_are_documented(project: Path) -> None:
    kv = FakeKeyValue()
    addresses = service(kv)
    pool = addresses.request_pool("slim-local", "10.32.0.0/24", "", v6=False, options={})
    named = {"com.docker.network.endpoint.name": "web"}
    address = addresses.request_address(pool.pool_id, "", options=named)
    networks = EtcdNetworks(kv, HOST)
    network = networks.create(NETWORK, NetworkKey("pool:10.32.0.0/24"),
                              subnets=(pool.subnet,), internal=False, mtu=0)
    EtcdEndpoints(kv, HOST, networks).create(Endpoint(
        id=EndpointId("e" * 64), network_id=NETWORK, vni=network.vni, host=HOST,
        underlay=IPv4Address("192.0.2.1"), mac=bytes(6), address=IPv4Interface(str(address)),
        address6=None, port=61000))
    raise_fence(kv)
    hosts = EtcdHosts(kv)
    hosts.register(Host(HOST, "one", IPv4Address("192.0.2.1")))
    wait_until(lambda: kv.get(keys.host(HOST)), 5, "the host's record")
    assert EtcdAbsences(kv).note(KnownHost(Host(host_id(2), "two", IPv4Address("192.0.2.2")), 60))
    published = EtcdServiceRecords(kv, HOST)
    assert published.lead("swarm")
    published.publish([Service(NETWORK, IPv4Address("10.32.0.9"), "web", ())])
    text, _ = (project / "docs" / "state.md").read_text().split("## Kernel state")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    entries = kv.range(keys.ROOT).entries
    hosts.close()
    assert len(entries) == len(rows), "one of each kind was written"
    for entry in entries:
        parts = entry.key.removeprefix(keys.ROOT).split("/")
        row = next((r for r in rows if matches(r[1].strip(" `").split("/"), parts)), None)
        assert row is not None, f"{entry.key} has no line"
        for field in set(json.loads(entry.value)) - {"schema", "write"}:
            assert f"`{field}`" in row[2] or "as the next row" in row[2], f"{entry.key}: {field}"


def raise_fence(kv: FakeKeyValue) -> None:
    unanswered = FaultyKeyValue(kv, lambda n: "before" if n == 2 else "")
    fenced = FencedKeyValue(unanswered, HOST)
    with pytest.raises(OutcomeUnknown):
        fenced.commit([], [])
    fenced.get("x")


def matches(pattern: list[str], parts: list[str]) -> bool:
    return len(pattern) == len(parts) and all(
        p.startswith("<") or p == part for p, part in zip(pattern, parts, strict=True))
