"""Requests and releases pools, and chooses the automatic ones.

A pool exists until every request for it is released.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network

from driver.errors import Conflict, Exhausted, InvalidArgument, NotFound, StoreUnavailable
from driver.ipam.pools import Pool, Supernet, choose_pool, overlapping, parse_pool
from driver.model import (
    GLOBAL_HOLDER,
    GLOBAL_SPACE,
    SPACES,
    HoldKind,
    HostAddress,
    HostId,
    PoolUse,
    SubnetUse,
)
from driver.services.addresses.overlaps import bridge_to_come
from driver.services.addresses.pool_ids import PoolName
from driver.services.addresses.swarm_pools import SWARM_USER
from driver.services.ports import AddressBook, RoutedNetworks, Subnet, Versioned
from driver.work import contended
from driver.work.doubts import Doubts


@dataclass
class PoolRelease:
    """One release.  The request to end is chosen on the first attempt and kept for retries."""

    name: PoolName
    request: tuple[str, str] | None = None  # user and request id


class Pools:
    """Requests and releases of pools.  Thread-safe; all its state is in the address book."""

    def __init__(self, book: AddressBook, host: HostId, *, supernets: Sequence[Supernet],
                 routed: RoutedNetworks, underlay: HostAddress | None,
                 request_id: Callable[[], str], doubts: Doubts) -> None:
        self._book = book
        self._host = host
        self._supernets = supernets
        self._routed = routed
        self._underlay = underlay
        self._request_id = request_id
        self._doubts = doubts

    def request(self, space: str, pool: str, sub_pool: str, *, v6: bool) -> Subnet:
        """See ports.Addresses.request_pool."""
        if space not in SPACES:
            raise InvalidArgument(f"address space {space!r}: want one of {', '.join(SPACES)}")
        if pool or sub_pool:
            name = PoolName(space, parse_pool(pool, sub_pool, v6=v6))
            if self._underlay is not None and self._underlay in name.pool.subnet:
                # Containers could not tell their hosts' addresses from each other's.
                raise InvalidArgument(f"pool {name.cidr} holds this host's own address "
                                      f"{self._underlay}; choose another subnet")
            self._use(name)
        else:
            name = self._choose(space, version=6 if v6 else 4)
        return Subnet(name.id, name.cidr)

    def release(self, release: PoolRelease) -> None:
        """See ports.Addresses.release_pool.  Idempotent for the same `release`."""
        name = release.name
        for _ in contended.attempts():
            before = self._book.subnet(name.cidr)
            used = _find(before.value, name)
            if before.value is None or used is None:
                return
            if release.request is None:
                release.request = self._own_request(name, used)
            request = release.request
            if request is None or request[1] not in used.requests.get(request[0], ()):
                return
            after = _without(before.value, name, *request)
            if not self._purge(name, before, after):
                continue
            if after is not None and not self._gateway_held(after):
                after = replace(after, gateway=None)
            if self._book.write_subnet(name.cidr, before, after):
                return
        raise StoreUnavailable(f"pool {name.id} has too many concurrent changes; try again")

    def read(self, name: PoolName, *, recall: bool = False
             ) -> tuple[Versioned[SubnetUse], SubnetUse]:
        """Return the subnet of a requested pool as it was read.  Error: NotFound.

        recall: see ports.AddressBook; an error is still based on a read from etcd.
        """
        subnet = self._book.subnet(name.cidr, recall=recall)
        if recall and (subnet.value is None or _find(subnet.value, name) is None):
            subnet = self._book.subnet(name.cidr)
        if subnet.value is None or _find(subnet.value, name) is None:
            raise NotFound(f"pool {name.id} is not in use: it was released, or never requested")
        return subnet, subnet.value

    def _use(self, name: PoolName) -> None:
        request = self._request_id()
        for _ in contended.attempts():
            before = self._book.subnet(name.cidr)
            if before.value is not None:
                if self._write(name, request, before=before, guard=None,
                               after=_with(before.value, name, self._host, request)):
                    return
                continue
            cidrs, guard = self._book.subnets()
            other = overlapping(name.pool.subnet, map(ip_network, cidrs))
            if other is not None and str(other) != name.cidr:
                raise Conflict(f"pool {name.cidr} overlaps {other}, which is a network of this "
                               "cluster; choose another subnet, or exactly that one to join it")
            after = _with(SubnetUse(name.cidr, None, ()), name, self._host, request)
            if self._write(name, request, before=before, after=after, guard=guard):
                return
        raise StoreUnavailable(f"pool {name.id} has too many concurrent changes; try again")

    def _choose(self, space: str, version: int) -> PoolName:
        supernets = [s for s in self._supernets if s.block.version == version]
        request = self._request_id()
        for _ in contended.attempts():
            cidrs, guard = self._book.subnets()
            routed = self._routed()
            chosen = choose_pool(supernets, [*map(ip_network, cidrs), *(
                network.subnet for network in (*routed, *bridge_to_come(routed)))])
            if chosen is None:
                blocks = ", ".join(f"{s.block} (by /{s.prefixlen})" for s in supernets)
                raise Exhausted(f"no automatic IPv{version} pool is left in {blocks}; remove "
                                "networks, or give --subnet")
            name = PoolName(space, Pool(chosen, None))
            after = _with(SubnetUse(name.cidr, None, ()), name, self._host, request)
            if self._write(name, request, before=Versioned(None, 0), after=after, guard=guard):
                return name
        raise StoreUnavailable("too many hosts choose a pool at once, try again")

    def _write(self, name: PoolName, request: str, *, before: Versioned[SubnetUse],
               after: SubnetUse, guard: int | None) -> bool:
        try:
            return self._book.write_subnet(name.cidr, before, after, guard)
        except StoreUnavailable as error:
            # The write may have happened, and dockerd will not release what it did not get.
            self._doubts.add(f"withdrawing request {request} for pool {name.id}",
                             lambda: self._withdraw(name, request), error)
            raise

    def _withdraw(self, name: PoolName, request: str) -> None:
        for _ in contended.attempts():
            before = self._book.subnet(name.cidr)
            used = _find(before.value, name)
            if before.value is None or used is None or (
                    request not in used.requests.get(self._host, ())):
                return
            if self._book.write_subnet(name.cidr, before,
                                       _without(before.value, name, self._host, request)):
                return
        raise StoreUnavailable(f"pool {name.id} has too many concurrent changes; try again")

    def _own_request(self, name: PoolName, used: PoolUse) -> tuple[str, str] | None:
        """Return the request that a release from this host ends: (user, request id)."""
        users: list[str] = [self._host]
        if name.space == GLOBAL_SPACE:
            # The releasing manager may not be the one that requested.
            users += [SWARM_USER, *(u for u in used.requests if u not in (self._host, SWARM_USER))]
        for user in users:
            if used.requests.get(user):
                return user, used.requests[user][-1]
        return None

    def _purge(self, name: PoolName, before: Versioned[SubnetUse],
               after: SubnetUse | None) -> bool:
        """Drop what the holder leaves behind in a subnet that it no longer uses.

        False: something has changed in the meantime.
        """
        holder = GLOBAL_HOLDER if name.space == GLOBAL_SPACE else self._host
        if uses_of(after, name.space, holder):
            return True
        for reservation in self._book.reservations(name.cidr):
            left = reservation.value
            if left is None:
                continue
            # After the last use of the subnet, everybody's holds are left-overs.
            for gone in (tuple(left.holds) if after is None else (holder,)):
                left = left.released(gone)
            if left != reservation.value and not self._book.write_reservation(
                    before, name.cidr, reservation, left):
                return False
        return True

    def _gateway_held(self, subnet: SubnetUse) -> bool:
        if subnet.gateway is None:
            return True
        found = self._book.reservation(subnet.cidr, subnet.gateway).value
        return found is not None and any(
            hold.kind is HoldKind.GATEWAY for hold in found.holds.values())


def uses_of(subnet: SubnetUse | None, space: str, holder: str) -> int:
    """Count the requests for the subnet's pools of a space: a host's, or all (GLOBAL_HOLDER)."""
    pools = subnet.pools if subnet is not None else ()
    return sum(len(ids) for pool in pools if pool.space == space
               for user, ids in pool.requests.items() if holder in (GLOBAL_HOLDER, user))


def _find(subnet: SubnetUse | None, name: PoolName) -> PoolUse | None:
    for pool in subnet.pools if subnet is not None else ():
        if (pool.space, pool.sub_pool) == (name.space, name.sub_pool):
            return pool
    return None


def _with(subnet: SubnetUse, name: PoolName, user: str, request: str) -> SubnetUse:
    pool = _find(subnet, name) or PoolUse(name.space, name.sub_pool, {})
    ids = pool.requests.get(user, ())
    if request in ids:
        return subnet
    return _replaced(subnet, pool, {**pool.requests, user: (*ids, request)})


def _without(subnet: SubnetUse, name: PoolName, user: str, request: str) -> SubnetUse | None:
    pool = _find(subnet, name)
    assert pool is not None
    left = tuple(i for i in pool.requests[user] if i != request)
    requests = {u: ids for u, ids in pool.requests.items() if u != user}
    after = _replaced(subnet, pool, {**requests, user: left} if left else requests)
    return after if after.pools else None


def _replaced(subnet: SubnetUse, pool: PoolUse,
              requests: dict[str, tuple[str, ...]]) -> SubnetUse:
    others = tuple(p for p in subnet.pools
                   if (p.space, p.sub_pool) != (pool.space, pool.sub_pool))
    return replace(subnet, pools=(*others, replace(pool, requests=requests))
                   if requests else others)
