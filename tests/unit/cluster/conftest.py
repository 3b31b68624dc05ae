"""Provides a member's door."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.api.door import DoorServer
from tests.unit.cluster.house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def door(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[DoorServer]:
    with house.opened(monkeypatch) as server:
        yield server
