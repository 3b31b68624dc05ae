"""Fixtures for tests in real network namespaces."""

import pytest

from tests.support.dockerd import make_sandbox
from tests.support.machines import Container, Machine, cluster, machines
from tests.support.netns import make_netns


@pytest.fixture(params=["two hosts", "one host"])
def pair(request: pytest.FixtureRequest, machines: list[Machine]) -> tuple[Container, Container]:
    """A client and a server, across hosts and on one."""
    other = machines[1 if request.param == "two hosts" else 0]
    return machines[0].container("10.32.0.2/16"), other.container("10.32.0.3/16")


@pytest.fixture
def across(machines: list[Machine]) -> tuple[Container, Container]:
    """A client and a server on two hosts: for what there is on the host path only."""
    return machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")


__all__ = ["across", "cluster", "machines", "make_netns", "make_sandbox", "pair"]
