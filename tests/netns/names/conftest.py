"""Provides a hostile container and its neighbour, whose name servers live as long as a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.names.neighbours import Lent, Neighbours, for_one_test, lent_by
from tests.support.world.machines import Cluster


@pytest.fixture(scope="module")
def all_tests(cluster: Cluster) -> Iterator[Lent]:
    with lent_by(cluster) as made:
        yield made


@pytest.fixture
def neighbours(all_tests: Lent, request: pytest.FixtureRequest) -> Iterator[Neighbours]:
    with for_one_test(all_tests, request) as made:
        yield made
