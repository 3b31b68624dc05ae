"""Reads which pools and addresses this host has in the local address space."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from driver.ipam.allocation import IpAddress
from driver.ipam.pools import Pool
from driver.model import LOCAL_SPACE, Hold, HoldKind, HostId
from driver.services.addresses.pool_ids import PoolName
from driver.services.ports import AddressBook


@dataclass(frozen=True)
class Requested:
    """One request by this host for a pool that is not released."""

    name: PoolName
    request: str


@dataclass(frozen=True)
class Held:
    """An address that this host holds and no endpoint has.  Gateways belong to their pools."""

    cidr: str
    address: IpAddress
    hold: Hold


@dataclass(frozen=True)
class LocalUses:
    """What this host has in the local space; requests are in the order of their arrival."""

    requested: tuple[Requested, ...]
    held: tuple[Held, ...]


def local_uses(book: AddressBook, host: HostId) -> LocalUses:
    """Read this host's uses.  Errors: StoreUnavailable, UnsupportedRecord."""
    requested: list[Requested] = []
    held: list[Held] = []
    for cidr in book.subnets()[0]:
        subnet = book.subnet(cidr).value
        pools = [pool for pool in (subnet.pools if subnet else ())
                 if pool.space == LOCAL_SPACE and pool.requests.get(host)]
        for pool in pools:
            name = PoolName(pool.space, Pool(
                ip_network(cidr), ip_network(pool.sub_pool) if pool.sub_pool else None))
            requested += [Requested(name, request) for request in pool.requests[host]]
        if not pools:
            continue
        for reservation in book.reservations(cidr):
            found = reservation.value
            hold = found.holds.get(host) if found is not None else None
            if found is not None and hold is not None and (
                    not found.endpoint and hold.kind is not HoldKind.GATEWAY):
                held.append(Held(cidr, found.address, hold))
    return LocalUses(tuple(requested), tuple(held))
