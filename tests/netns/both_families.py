"""Two containers with addresses of both families."""

from __future__ import annotations

import pytest

from tests.support.world.machines import Container, Machine

Pair = tuple[Container, Container]
HERE6, THERE6 = "fd00:32::2", "fd00:32::3"


def two(here: Machine, there: Machine) -> Pair:
    return (here.container("10.32.0.2/16", address6=f"{HERE6}/64"),
            there.container("10.32.0.3/16", address6=f"{THERE6}/64"))


@pytest.fixture(params=["two hosts", "one host"])
def pair6(request: pytest.FixtureRequest, machines: list[Machine]) -> Pair:
    """Two containers with addresses of both families, across hosts and on one host."""
    return two(machines[0], machines[1 if request.param == "two hosts" else 0])


@pytest.fixture
def across6(machines: list[Machine]) -> Pair:
    """The same, on two hosts: for what only the host path has."""
    return two(*machines)
