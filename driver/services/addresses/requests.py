"""Finds and reserves an address: any one of a pool, a named one, or the gateway.

A write that may have happened although it failed is withdrawn later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from driver.errors import Conflict, Exhausted, StoreUnavailable
from driver.ipam import allocation
from driver.ipam.allocation import IpAddress, Span
from driver.ipam.grants import refusal
from driver.model import Hold, HoldKind, Reservation, SubnetUse
from driver.services.addresses.pool_ids import PoolName
from driver.services.addresses.pools import Pools
from driver.services.addresses.releases import AddressReleases
from driver.services.ports import AddressBook, Versioned
from driver.work import contended
from driver.work.doubts import Doubts

WINDOW = 256  # addresses to choose from: wide enough that concurrent choices rarely collide
# Free addresses of a window that are remembered, so that only one request in so many reads etcd.
# Few, because others take them, too, and then a request must be written twice.
SPARE = 16


@dataclass(frozen=True)
class Wish:
    """One RequestAddress, checked."""

    name: PoolName
    address: IpAddress | None
    kind: HoldKind
    holder: str
    hold: Hold


class AddressRequests:
    """Chooses and writes.  Thread-safe."""

    def __init__(self, book: AddressBook, pools: Pools, releases: AddressReleases, doubts: Doubts,
                 random: Random) -> None:
        self._book = book
        self._pools = pools
        self._releases = releases
        self._doubts = doubts
        self._random = random
        self._next: dict[str, int] = {}  # PoolID -> where the next search begins
        self._spare: dict[str, list[int]] = {}  # PoolID -> seen free; every write compares

    def request(self, wish: Wish) -> IpAddress:
        """Reserve the address of a wish.

        Errors: NotFound (pool), Conflict (in use), Exhausted, StoreUnavailable.
        """
        if wish.address is None and wish.kind is HoldKind.DYNAMIC:
            return self._request_any(wish)
        return self._request_exact(wish)

    # Any address.

    def _request_any(self, wish: Wish) -> IpAddress:
        name, hold = wish.name, wish.hold
        missed: set[int] = set()  # lost to somebody faster; not worth reading again
        for attempt in contended.attempts(recalled=True):
            subnet, _ = self._pools.read(name, recall=attempt == 0)
            owned: Versioned[IpAddress] | None = None
            if hold.owner:
                owned = self._book.owned(name.cidr, wish.holder, hold.owner)
                again = self._given_before(wish, owned.value)
                if again is not None:
                    return again
            number = self._spare_number(name) if attempt == 0 else None
            if number is None:
                number = self._free_number(name, missed)
            if number is None:
                if missed:
                    missed.clear()
                    continue
                raise Exhausted(f"pool {name.sub_pool or name.cidr} has no free address left")
            address = allocation.to_address(name.pool.subnet, number)
            after = Reservation(address).held(wish.holder, hold)
            if self._write(wish, subnet, Versioned(None, 0), after, owned=owned):
                self._next[name.id] = number + 1
                return address
            self._spare.pop(name.id, None)
            if attempt > 0:  # at 0 the recalled subnet may have been the outdated value
                missed.add(number)
        raise StoreUnavailable(f"pool {name.cidr} has too many concurrent requests; try again")

    def _given_before(self, wish: Wish, address: IpAddress | None) -> IpAddress | None:
        """Return what the same owner got from the request that dockerd now repeats."""
        if address is None:
            return None
        found = self._book.reservation(wish.name.cidr, address).value
        if found is None or wish.holder not in found.holds or (
                found.holds[wish.holder].owner != wish.hold.owner):
            return None
        if found.endpoint:  # another endpoint of the same container has it already
            return None
        span = allocation.usable(wish.name.pool.subnet, wish.name.pool.sub_pool)
        return address if is_in(span, address, wish.name) else None

    def _spare_number(self, name: PoolName) -> int | None:
        try:
            return self._spare[name.id].pop()
        except (KeyError, IndexError):
            return None

    def _free_number(self, name: PoolName, missed: set[int]) -> int | None:
        """Choose a number near the last one given out; elsewhere if none is free there."""
        subnet = name.pool.subnet
        whole = allocation.usable(subnet, name.pool.sub_pool)
        if not whole.size:
            return None
        start = self._next.get(name.id, whole.first)
        if not whole.first <= start <= whole.last:
            start = whole.first
        number = self._choose_in(name, whole.window(start, WINDOW), missed)
        if number is not None:
            return number
        gap = allocation.find_gap(whole, lambda span: self._book.count_taken(
            name.cidr, allocation.to_address(subnet, span.first),
            allocation.to_address(subnet, span.last)), WINDOW)
        return None if gap is None else self._choose_in(name, gap, missed)

    def _choose_in(self, name: PoolName, span: Span, missed: set[int]) -> int | None:
        taken = self._book.taken(name.cidr, allocation.to_address(name.pool.subnet, span.first),
                                 allocation.to_address(name.pool.subnet, span.last))
        chosen = allocation.choose(span, {*taken, *missed}, self._random, 1 + SPARE)
        self._spare[name.id] = chosen[1:]
        return chosen[0] if chosen else None

    # A named address, or the gateway.

    def _request_exact(self, wish: Wish) -> IpAddress:
        name = wish.name
        for _ in contended.attempts():
            subnet, use = self._pools.read(name)
            address = wish.address or use.gateway or self._first_free(name)
            before = self._book.reservation(name.cidr, address)
            found = before.value or Reservation(address)
            reason = refusal(found, wish.holder, wish.hold)
            if reason:
                raise Conflict(f"address {address} {reason}; choose another")
            mine = found.holds.get(wish.holder)
            if mine is not None and not mine.kept and not (
                    wish.kind is HoldKind.GATEWAY and mine.kind is not HoldKind.GATEWAY):
                return address  # a repeated request
            new_gateway = wish.kind is HoldKind.GATEWAY and use.gateway is None
            if self._write(wish, subnet, before, found.held(wish.holder, wish.hold), owned=None,
                           subnet_after=replace(use, gateway=address) if new_gateway else None):
                return address
        raise StoreUnavailable(f"pool {name.cidr} has too many concurrent requests; try again")

    def _first_free(self, name: PoolName) -> IpAddress:
        subnet = name.pool.subnet
        whole = allocation.usable(subnet)
        window = whole.window(whole.first, WINDOW)
        number = allocation.lowest(window, self._book.taken(
            name.cidr, allocation.to_address(subnet, window.first),
            allocation.to_address(subnet, window.last)))
        if number is None:
            raise Exhausted(f"pool {name.cidr} has no free address for a gateway; give --gateway")
        return allocation.to_address(subnet, number)

    def _write(self, wish: Wish, subnet: Versioned[SubnetUse], before: Versioned[Reservation],
               after: Reservation, *, owned: Versioned[IpAddress] | None,
               subnet_after: SubnetUse | None = None) -> bool:
        try:
            return self._book.write_reservation(subnet, wish.name.cidr, before, after,
                                                owned=owned, subnet_after=subnet_after)
        except StoreUnavailable as error:
            # The write may have happened, and dockerd will not release what it did not get.
            self._doubts.add(
                f"withdrawing address {after.address} (request {wish.hold.request})",
                lambda: self._releases.withdraw(
                    wish.name.cidr, after.address, wish.holder, wish.hold), error)
            raise


def is_in(span: Span, address: IpAddress, name: PoolName) -> bool:
    """Return whether the address has the pool's family and lies in the span."""
    return address.version == name.pool.subnet.version and span.first <= int(address) <= span.last
