"""Replays what real dockerds sent (tests/wire/record.py) through the server, services and IPAM."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from driver.ipam.pools import Supernet
from driver.services.addresses.service import AddressService
from driver.store.address_book import EtcdAddressBook
from tests.support.fakes.kv import FakeKeyValue, FakeStore
from tests.support.fakes.ports import HOST, World
from tests.support.world.client import Dockerd

RECORDINGS = sorted((Path(__file__).parent / "recorded").glob("*.json"))


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def addresses(store: FakeStore) -> AddressService:
    return AddressService(
        EtcdAddressBook(FakeKeyValue(store)), HOST.id,
        supernets=(Supernet(IPv4Network("10.128.0.0/9"), 24),), routed=tuple)


def test_three_versions_are_recorded() -> None:
    versions = {json.loads(path.read_text())["docker"].split(".")[0] for path in RECORDINGS}
    assert versions >= {"20", "26", "28"}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_requests_are_understood(dockerd: Dockerd, world: World, store: FakeStore,
                                          path: Path) -> None:
    seen = set()
    for request in json.loads(path.read_text())["requests"]:
        caller = Dockerd(dockerd.path, request["headers"]["Host"])
        reply = caller.raw(request["path"].removeprefix("/"), request["body"].encode())
        assert reply.status == 200, request
        assert not reply.error, request
        assert reply.json.keys() == request["answer"].keys(), request
        seen.add(request["path"])
    # The recording has whole lives, so nothing may be left.
    assert world.live() == World().live()
    assert [key for key in store.entries if "/reservations/" in key] == []
    assert {"/NetworkDriver.Join", "/NetworkDriver.Leave", "/IpamDriver.ReleasePool"} <= seen
