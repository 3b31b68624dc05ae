"""Provides the stores of the contract tests: the fake, and a real etcd that all tests share.

Each test starts with an empty store.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.store.etcd.client import EtcdKeyValue
from driver.store.feeds.feeds import Feeds
from driver.store.kv.protocol import Delete
from tests.support.fakes.kv import FakeKeyValue
from tests.support.faults.watched import Back, EtcdWorld, FakeWorld, World
from tests.support.world.etcd import Etcd


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd for tests that stop, freeze or compact it."""
    with Etcd(tmp_path) as server:
        yield server


@pytest.fixture(params=["fake", "etcd"])
def kv(request: pytest.FixtureRequest) -> Iterator[FakeKeyValue | EtcdKeyValue]:
    if request.param == "fake":
        yield FakeKeyValue()
        return
    server: Etcd = request.getfixturevalue("etcd")
    with EtcdKeyValue(server.settings()) as client:
        yield client
        for entry in client.range("/", keys_only=True).entries:
            client.commit([], [Delete(entry.key)])


@pytest.fixture
def feeds(kv: FakeKeyValue | EtcdKeyValue) -> Iterator[Feeds]:
    made = Feeds(kv)
    yield made
    made.close()


@pytest.fixture(params=["fake", "etcd"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    with EtcdWorld(tmp_path) as made:
        yield made


@pytest.fixture
def back() -> Back:
    return Back()
