"""Chooses the address pools that are told one by one: there may be thousands.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network

from driver.metrics.families import POOLS_MAX, Reading

NOT_USABLE = 3  # addresses of a pool: network, broadcast and gateway


def room(pool: IPv4Network) -> int:
    """Return how many endpoints a pool has addresses for."""
    return max(1, pool.num_addresses - NOT_USABLE)


def fullest(used: Mapping[IPv4Network, int]) -> Reading:
    """Return the families of the fullest pools.  used: addresses by pool."""
    told = sorted(used, key=lambda pool: (-used[pool] / room(pool), pool))[:POOLS_MAX]
    return {"slim_pool_addresses_used": {(str(pool),): float(used[pool]) for pool in told},
            "slim_pool_addresses": {(str(pool),): float(room(pool)) for pool in told}}
