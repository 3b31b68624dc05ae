"""Provides real etcds as `slim cluster` starts them: TLS everywhere, users by certificate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.cluster import model
from tests.contract.cluster.world import RealCluster
from tests.support.world.etcd import free_port


@pytest.fixture(scope="module")
def ports() -> Iterator[None]:
    """Ports of this test alone; all members have the same, each on an address of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "CLIENT_PORT", free_port())
        patch.setattr(model, "PEER_PORT", free_port())
        yield


@pytest.fixture(scope="module")
def one(ports: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """One member, which knows its users; a host has joined."""
    with RealCluster(tmp_path_factory.mktemp("cluster"), network="127.0.1") as made:
        yield made


@pytest.fixture
def own(ports: None, tmp_path: Path) -> Iterator[RealCluster]:
    """One that a test changes."""
    with RealCluster(tmp_path, network="127.0.2") as made:
        yield made
