"""Owns requesting and releasing addresses: cluster-wide, whatever space or sub-pool they came by.

It must not know etcd or HTTP.  Everything is in the address book; nothing is lost by a restart.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address
from random import Random, SystemRandom

from driver.doubts import Doubts
from driver.errors import (
    Conflict,
    Exhausted,
    InvalidArgument,
    NotFound,
    SlimError,
    StoreUnavailable,
)
from driver.ipam import allocation
from driver.ipam.allocation import IpAddress, Span
from driver.ipam.grants import GLOBAL_HOLDER, refusal
from driver.ipam.pools import Supernet
from driver.model import Hold, HoldKind, HostId, NetworkId, Reservation, SubnetUse
from driver.services.local_uses import Held, LocalUses, Requested, local_uses
from driver.services.pool_ids import (
    GLOBAL_SPACE,
    LOCAL_SPACE,
    PoolName,
    parse_pool_id,
)
from driver.services.pools import PoolRelease, Pools, uses_of
from driver.services.ports import AddressBook, RoutedNetworks, Subnet, Versioned
from driver.services.swarm_pools import SwarmPools

log = logging.getLogger(__name__)

REQUEST_TYPE = "RequestAddressType"
GATEWAY = "com.docker.network.gateway"
MAC = "com.docker.network.endpoint.macaddress"
NAME = "com.docker.network.endpoint.name"

ATTEMPTS = 64  # against other requesters of the same subnet
WINDOW = 256  # addresses to choose from: so wide that simultaneous choices rarely meet


@dataclass(frozen=True)
class _Wish:
    """One RequestAddress, checked."""

    name: PoolName
    address: IpAddress | None
    kind: HoldKind
    holder: str
    hold: Hold


@dataclass
class _Release:
    """One ReleaseAddress; which hold it ends is found once, so that it can be tried again.

    A try without an answer may have succeeded, and the address may be somebody else's by now.
    """

    name: PoolName
    address: IpAddress
    hold: Hold | None = None


class AddressService:
    """driver.services.ports.Addresses.  Thread-safe."""

    def __init__(self, book: AddressBook, host: HostId, *, supernets: Sequence[Supernet],
                 routed: RoutedNetworks, underlay: IPv4Address | None = None,
                 random: Random | None = None,
                 request_id: Callable[[], str] = lambda: secrets.token_hex(6)) -> None:
        self._book = book
        self._host = host
        self._random = random or SystemRandom()
        self._request_id = request_id
        self._doubts = Doubts()
        self._pools = Pools(book, host, supernets=supernets, routed=routed,
                            underlay=underlay, request_id=request_id, doubts=self._doubts)
        self._swarm_pools = SwarmPools(book, host, request_id)
        self._next: dict[str, int] = {}  # PoolID -> where the next search begins

    def default_spaces(self) -> tuple[str, str]:
        """Return the local and the global address space's name."""
        return LOCAL_SPACE, GLOBAL_SPACE

    def request_pool(self, space: str, pool: str, sub_pool: str, *, v6: bool,
                     options: dict[str, str]) -> Subnet:  # noqa: ARG002 - none matters
        """Give a pool out, the same one again for the same values; "" chooses a free one.

        Errors: InvalidArgument, Conflict (overlaps another subnet), Exhausted,
        StoreUnavailable.
        """
        self._doubts.settle()
        return self._pools.request(space, pool, sub_pool, v6=v6)

    def release_pool(self, pool_id: str) -> None:
        """Undo one request_pool; the last one ends the pool.  Unknown: nothing to do.

        Error: StoreUnavailable; it is then done as soon as the store answers again.
        """
        name = parse_pool_id(pool_id)
        if name is None:
            return
        release = PoolRelease(name)
        try:
            self._doubts.settle()
            self._pools.release(release)
        except StoreUnavailable:
            self._doubts.add(lambda: self._pools.release(release))
            raise

    def request_address(self, pool_id: str, address: str, *,
                        options: dict[str, str]) -> IPv4Interface | IPv6Interface:
        """Reserve an address of the pool's subnet; "" chooses a free one (or the gateway).

        Errors: InvalidArgument, NotFound (pool), Conflict (in use), Exhausted,
        StoreUnavailable.
        """
        self._doubts.settle()
        wish = self._wish(pool_id, address, options)
        if wish.address is None and wish.kind is HoldKind.DYNAMIC:
            given = self._request_any(wish)
        else:
            given = self._request_exact(wish)
        prefixlen = wish.name.pool.subnet.prefixlen
        if isinstance(given, IPv4Address):
            return IPv4Interface((given, prefixlen))
        return IPv6Interface((given, prefixlen))

    def release_address(self, pool_id: str, address: str) -> None:
        """Undo request_address for this space.  Unknown pool or address: nothing to do.

        Error: StoreUnavailable; it is then done as soon as the store answers again.
        """
        name = parse_pool_id(pool_id)
        if name is None:
            return
        released = _parse(address)
        if released not in name.pool.subnet:
            return
        release = _Release(name, released)
        try:
            self._doubts.settle()
            self._release(release)
        except StoreUnavailable:
            self._doubts.add(lambda: self._release(release))
            raise

    def hold_pools(self, network_id: NetworkId, cidrs: Sequence[str]) -> None:
        """A swarm's network has come to be, after its pools were requested.  Idempotent.

        Error: StoreUnavailable.
        """
        self._doubts.settle()
        self._swarm_pools.hold(network_id, cidrs)

    def let_pools_go(self, network_id: NetworkId) -> None:
        """A swarm's network goes; its pools are released next.  Idempotent.

        Never an error, for the manager would release nothing then: without etcd it is done later.
        """
        try:
            self._doubts.settle()
            self._swarm_pools.let_go(network_id)
        except SlimError as error:
            log.warning("swarm network %s holds its pools until etcd can be read: %s",
                        network_id[:12], error)
            self._doubts.add(lambda: self._swarm_pools.let_go(network_id))

    def settle(self) -> None:
        """Do what etcd did not confirm earlier.  Error: StoreUnavailable."""
        self._doubts.settle()

    def local_uses(self) -> LocalUses:
        """Return what this host has in the local space.  Error: StoreUnavailable."""
        self._doubts.settle()
        return local_uses(self._book, self._host)

    def withdraw_held(self, held: Held) -> None:
        """Release the hold if it is still the same.  Error: StoreUnavailable."""
        self._withdraw(held.cidr, held.address, self._host, held.hold)

    def withdraw_requested(self, requested: Requested) -> None:
        """Release this request of a pool if it is still there.  Error: StoreUnavailable."""
        self._pools.release(PoolRelease(requested.name, (self._host, requested.request)))

    def _release(self, release: _Release) -> None:
        name, holder = release.name, self._holder(release.name)
        for _ in range(ATTEMPTS):
            subnet = self._book.subnet(name.cidr)
            before = self._book.reservation(name.cidr, release.address)
            hold = before.value.holds.get(holder) if before.value is not None else None
            if before.value is None or hold is None or release.hold not in (None, hold):
                return
            if self._still_gateway(name, subnet.value, before.value, holder):
                return
            release.hold = hold
            after = before.value.released(holder)
            if self._book.write_reservation(
                    subnet, name.cidr, before, after,
                    subnet_after=_without_gateway(subnet.value, after)):
                return
        raise StoreUnavailable(
            f"address {release.address} is changed by too many at once, try again")

    def _wish(self, pool_id: str, address: str, options: dict[str, str]) -> _Wish:
        name = parse_pool_id(pool_id)
        if name is None:
            raise NotFound(f"pool {pool_id!r} is none of this driver's")
        wanted = _parse(address) if address else None
        span = allocation.usable(name.pool.subnet)
        if wanted is not None and not _in(span, wanted, name):
            first, last = (allocation.to_address(name.pool.subnet, number)
                           for number in (span.first, span.last))
            raise InvalidArgument(f"address {wanted} is not one for a container of pool "
                                  f"{name.cidr}; want one from {first} to {last}")
        kind = HoldKind.DYNAMIC if wanted is None else HoldKind.EXACT
        if options.get(REQUEST_TYPE) == GATEWAY:
            kind = HoldKind.GATEWAY
        owner = options.get(MAC) or options.get(NAME) or ""
        return _Wish(name, wanted, kind, self._holder(name), Hold(
            kind, "" if kind is HoldKind.GATEWAY else owner, self._request_id()))

    def _holder(self, name: PoolName) -> str:
        return GLOBAL_HOLDER if name.space == GLOBAL_SPACE else self._host

    # Any address.

    def _request_any(self, wish: _Wish) -> IpAddress:
        name, hold = wish.name, wish.hold
        missed: set[int] = set()  # somebody was faster there; not worth reading again
        for _ in range(ATTEMPTS):
            subnet, _ = self._pools.read(name)
            owned: Versioned[IpAddress] | None = None
            if hold.owner:
                owned = self._book.owned(name.cidr, wish.holder, hold.owner)
                again = self._given_before(wish, owned.value)
                if again is not None:
                    return again
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
            missed.add(number)
        raise StoreUnavailable(f"pool {name.cidr} is requested from by too many at once, try again")

    def _given_before(self, wish: _Wish, address: IpAddress | None) -> IpAddress | None:
        """Return what the same owner got by the request that dockerd now repeats."""
        if address is None:
            return None
        found = self._book.reservation(wish.name.cidr, address).value
        if found is None or wish.holder not in found.holds or (
                found.holds[wish.holder].owner != wish.hold.owner):
            return None
        if found.endpoint:  # another endpoint of the same container has it already
            return None
        span = allocation.usable(wish.name.pool.subnet, wish.name.pool.sub_pool)
        return address if _in(span, address, wish.name) else None

    def _free_number(self, name: PoolName, missed: set[int]) -> int | None:
        """Choose near the last one given out; elsewhere if there is nothing free."""
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
        return allocation.choose(span, {*taken, *missed}, self._random)

    # A named address, or the gateway.

    def _request_exact(self, wish: _Wish) -> IpAddress:
        name = wish.name
        for _ in range(ATTEMPTS):
            subnet, use = self._pools.read(name)
            address = wish.address or use.gateway or self._first_free(name)
            before = self._book.reservation(name.cidr, address)
            found = before.value or Reservation(address)
            reason = refusal(found, wish.holder, wish.hold)
            if reason:
                raise Conflict(f"address {address} {reason}; choose another")
            mine = found.holds.get(wish.holder)
            if mine is not None and not (
                    wish.kind is HoldKind.GATEWAY and mine.kind is not HoldKind.GATEWAY):
                return address  # asked again
            new_gateway = wish.kind is HoldKind.GATEWAY and use.gateway is None
            if self._write(wish, subnet, before, found.held(wish.holder, wish.hold), owned=None,
                           subnet_after=replace(use, gateway=address) if new_gateway else None):
                return address
        raise StoreUnavailable(f"pool {name.cidr} is requested from by too many at once, try again")

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

    def _write(self, wish: _Wish, subnet: Versioned[SubnetUse], before: Versioned[Reservation],
               after: Reservation, *, owned: Versioned[IpAddress] | None,
               subnet_after: SubnetUse | None = None) -> bool:
        try:
            return self._book.write_reservation(subnet, wish.name.cidr, before, after,
                                                owned=owned, subnet_after=subnet_after)
        except StoreUnavailable:
            # It may have happened, and dockerd will not release what it did not get.
            self._doubts.add(lambda: self._withdraw(
                wish.name.cidr, after.address, wish.holder, wish.hold))
            raise

    def _withdraw(self, cidr: str, address: IpAddress, holder: str, hold: Hold) -> None:
        """Release exactly this hold; another one of the same holder stays."""
        for _ in range(ATTEMPTS):
            subnet = self._book.subnet(cidr)
            before = self._book.reservation(cidr, address)
            if before.value is None or before.value.holds.get(holder) != hold:
                return
            after = before.value.released(holder)
            if self._book.write_reservation(
                    subnet, cidr, before, after,
                    subnet_after=_without_gateway(subnet.value, after)):
                return
        raise StoreUnavailable(f"address {address} is changed by too many at once, try again")

    def _still_gateway(self, name: PoolName, subnet: SubnetUse | None, found: Reservation,
                       holder: str) -> bool:
        # Two networks of one host, or of a swarm, can have the same pool, and with it the same
        # gateway: the first one's end leaves it to the other.  (ReleasePool comes after this.)
        return (found.holds[holder].kind is HoldKind.GATEWAY
                and uses_of(subnet, name.space, holder) > 1)


def _without_gateway(subnet: SubnetUse | None, after: Reservation) -> SubnetUse | None:
    """Return the subnet without its gateway if `after` is not held as one any more."""
    if subnet is None or subnet.gateway != after.address or any(
            hold.kind is HoldKind.GATEWAY for hold in after.holds.values()):
        return None
    return replace(subnet, gateway=None)


def _in(span: Span, address: IpAddress, name: PoolName) -> bool:
    return address.version == name.pool.subnet.version and span.first <= int(address) <= span.last


def _parse(address: str) -> IpAddress:
    try:
        return ip_address(address)
    except ValueError:
        raise InvalidArgument(f"address {address!r}: want a plain IPv4 or IPv6 address") from None
