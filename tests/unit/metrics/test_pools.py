"""Tests that only the fullest pools are told, however many there are."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from driver.metrics.families import POOLS_MAX
from driver.metrics.pools import fullest, room


@pytest.mark.parametrize(("pool", "count"), [
    ("10.0.0.0/24", 253), ("10.0.0.0/30", 1), ("10.0.0.0/31", 1), ("10.0.0.0/32", 1)])
def test_room(pool: str, count: int) -> None:
    assert room(IPv4Network(pool)) == count


def test_the_fullest_by_share_not_by_number() -> None:
    used = {IPv4Network(f"10.{number}.0.0/16"): number for number in range(250)}
    used[IPv4Network("192.168.0.0/28")] = 13
    found = fullest(used)
    told = list(found["slim_pool_addresses_used"])
    assert (told[0], told[1]) == (("192.168.0.0/28",), ("10.249.0.0/16",))
    assert len(told) == POOLS_MAX
    assert found["slim_pool_addresses"].keys() == found["slim_pool_addresses_used"].keys()
    assert found["slim_pool_addresses"]["192.168.0.0/28",] == 13.0


def test_without_pools() -> None:
    assert fullest({}) == {"slim_pool_addresses_used": {}, "slim_pool_addresses": {}}
