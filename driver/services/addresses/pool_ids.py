"""Formats and parses PoolIDs, which dockerd keeps for years."""

from __future__ import annotations

from dataclasses import dataclass

from driver.errors import InvalidArgument
from driver.ipam.pools import Pool, parse_pool
from driver.model import SPACES, PoolId


@dataclass(frozen=True)
class PoolName:
    """The content of a PoolID: the space, the subnet, and the part for dynamic addresses."""

    space: str
    pool: Pool

    @property
    def cidr(self) -> str:
        """The subnet in network form."""
        return str(self.pool.subnet)

    @property
    def sub_pool(self) -> str:
        """The sub-pool in network form; empty if there is none."""
        return str(self.pool.sub_pool) if self.pool.sub_pool is not None else ""

    @property
    def id(self) -> PoolId:
        """The PoolID: the same text for the same request, on every host."""
        return PoolId("/".join(filter(None, (self.space, self.cidr, self.sub_pool))))


def parse_pool_id(pool_id: str) -> PoolName | None:
    """Parse a PoolID; None if it is not one of ours."""
    space, *parts = pool_id.split("/")
    if space not in SPACES or len(parts) not in (2, 4):
        return None
    try:
        name = PoolName(space, parse_pool("/".join(parts[:2]), "/".join(parts[2:]), v6=False))
    except InvalidArgument:
        return None
    return name if name.id == pool_id else None
