"""Models a swarm's pools, gateways and vips on record, and finds what is left over of them.

Pure.  What a manager has entered again is marked with its swarm's id: a pool in the subnet's
`entered`, an address by the owner of its hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network

from driver.ipam.allocation import IpAddress
from driver.ipam.pools import Pool
from driver.model import (
    GLOBAL_HOLDER,
    GLOBAL_SPACE,
    Hold,
    HoldKind,
    PoolUse,
    Reservation,
    SubnetUse,
)
from driver.services.addresses.local_uses import Held, Requested
from driver.services.addresses.pool_ids import PoolName
from driver.services.addresses.swarm_pools import SWARM_USER
from driver.services.ports import SwarmPool, SwarmUses, Versioned

Entered = Held | Requested


@dataclass(frozen=True)
class Found:
    """A subnet and its addresses as they were read."""

    cidr: str
    use: Versioned[SubnetUse]
    addresses: Mapping[IpAddress, Versioned[Reservation]]


@dataclass(frozen=True)
class Wish:
    """An address that the managers hold according to Docker."""

    address: IpAddress
    kind: HoldKind
    what: str  # for people only

    def hold(self, swarm: str, request: str) -> Hold:
        """Return the hold with which a manager enters the address again."""
        return Hold(self.kind, _mark(swarm), request)


def wishes(cidr: str, uses: SwarmUses) -> list[Wish]:
    """Return all addresses of a subnet that must be held, gateways first."""
    gateways = {pool.gateway: Wish(pool.gateway, HoldKind.GATEWAY,
                                   f"gateway {pool.gateway} of swarm network {pool.network}")
                for pool in uses.pools if pool.subnet == cidr and pool.gateway is not None}
    return [*gateways.values(), *(
        Wish(address, HoldKind.DYNAMIC, f"address {address} of service {name}")
        for (subnet, address), name in uses.vips.items() if subnet == cidr)]


def in_the_way(wish: Wish, found: Reservation | None, gateway: IpAddress | None) -> str:
    """Say who else has the address; "": nobody.  gateway: the subnet's gateway on record."""
    is_gateway = wish.kind is HoldKind.GATEWAY
    if is_gateway and gateway not in (None, wish.address):
        return f"the subnet's gateway is {gateway} there"
    if found is None:
        return ""
    if found.endpoint:
        return f"endpoint {found.endpoint[:12]} has it"
    for holder, hold in found.holds.items():
        # Hosts with a network of this subnet also hold its gateway.
        if (hold.kind is HoldKind.GATEWAY) != is_gateway or (
                holder != GLOBAL_HOLDER and not is_gateway):
            return f"it is held by {holder[:12]} ({hold.kind.value})"
    return ""


def has_pool(use: SubnetUse, wanted: SwarmPool) -> bool:
    """Tell whether the network holds its pool."""
    return any(pool.sub_pool == wanted.sub_pool and wanted.network_id in _networks(pool)
               for pool in use.pools)


def with_pool(use: SubnetUse, wanted: SwarmPool, swarm: str) -> SubnetUse:
    """Let the network hold its pool and no other of the subnet: a node knows no sub-pool."""
    mine, others = PoolUse(GLOBAL_SPACE, wanted.sub_pool, {}), []
    for pool in use.pools:
        if (pool.space, pool.sub_pool) == (mine.space, mine.sub_pool):
            mine = pool
        elif wanted.network_id not in _networks(pool):
            others.append(pool)
        else:
            left = tuple(each for each in _networks(pool) if each != wanted.network_id)
            requests = {user: ids for user, ids in {**pool.requests, SWARM_USER: left}.items()
                        if ids}
            others += [replace(pool, requests=requests)] if requests else []
    mine = replace(mine, requests={**mine.requests, SWARM_USER: (
        *_networks(mine), str(wanted.network_id))})
    held = {network for pool in use.pools for network in _networks(pool)}
    return replace(use, pools=(*others, mine), entered={
        **{network: its for network, its in use.entered.items() if network in held},
        str(wanted.network_id): swarm})


def left_over(found: Found, uses: SwarmUses, swarm: str) -> Iterator[Entered]:
    """Yield what a manager of this swarm has entered in a subnet but Docker does not know."""
    use = found.use.value
    known = {pool.network_id for pool in uses.pools if pool.subnet == found.cidr}
    for pool in use.pools if use is not None else ():
        for network in _networks(pool):
            if use is not None and use.entered.get(network) == swarm and network not in known:
                yield Requested(PoolName(pool.space, Pool(
                    ip_network(found.cidr), ip_network(pool.sub_pool) if pool.sub_pool else None)),
                    network)
    wanted = {wish.address for wish in wishes(found.cidr, uses)}
    for address, read in found.addresses.items():
        hold = read.value.holds.get(GLOBAL_HOLDER) if read.value is not None else None
        if read.value is not None and hold is not None and hold.owner == _mark(swarm) and (
                not read.value.endpoint and address not in wanted):
            yield Held(found.cidr, address, hold)


def _mark(swarm: str) -> str:
    return f"swarm:{swarm}"


def _networks(pool: PoolUse) -> tuple[str, ...]:
    return pool.requests.get(SWARM_USER, ()) if pool.space == GLOBAL_SPACE else ()
