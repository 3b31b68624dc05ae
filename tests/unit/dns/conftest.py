"""Provides the loop of the name server's tests; nothing may be left in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.dns.turns import Turns


@pytest.fixture
def turns() -> Iterator[Turns]:
    with Turns() as made:
        yield made
        for each in made.clients:
            each.close()
        assert made.watched == {}
