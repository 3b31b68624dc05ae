"""Provides a real WSGI server on a unix socket, over fakes whose resources tests can inspect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.api.app import create_app
from driver.api.ipam_driver import IpamDriver
from driver.api.network_driver import NetworkDriver
from driver.api.server import ApiServer
from tests.support.fakes.ports import FakeAddresses, World
from tests.support.world.client import Dockerd


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def addresses(world: World):
    return FakeAddresses()


@pytest.fixture
def scope() -> str:
    return "local"


@pytest.fixture
def dockerd(world: World, addresses, scope: str, tmp_path: Path) -> Iterator[Dockerd]:
    app = create_app(NetworkDriver(world.network_service, world.endpoint_service, addresses,
                                   scope),
                     IpamDriver(addresses))
    server = ApiServer(app, str(tmp_path / "slim.sock"), threads=8)
    server.start()
    yield Dockerd(str(tmp_path / "slim.sock"))
    server.stop()
