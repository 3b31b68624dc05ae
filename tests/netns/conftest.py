"""Provides fixtures for tests in real network namespaces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.both_families import across6, pair6
from tests.netns.cluster.etcd_world import World, running_world
from tests.support.fakes.dockerd import make_sandbox
from tests.support.world.machines import Container, Machine, cluster, machines
from tests.support.world.netns import make_netns


@pytest.fixture(params=["two hosts", "one host"])
def pair(request: pytest.FixtureRequest, machines: list[Machine]) -> tuple[Container, Container]:
    """A client and a server, across hosts and on one host."""
    other = machines[1 if request.param == "two hosts" else 0]
    return machines[0].container("10.32.0.2/16"), other.container("10.32.0.3/16")


@pytest.fixture
def across(machines: list[Machine]) -> tuple[Container, Container]:
    """A client and a server on two hosts: for what only the host path has."""
    return machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two hosts with drivers and containers, and an etcd, for all tests of a file."""
    with running_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def world(running: World) -> World:
    """The world as the last test left it; files that need it at rest have their own fixture."""
    return running


__all__ = ["across", "across6", "cluster", "machines", "make_netns", "make_sandbox", "pair",
           "pair6"]
