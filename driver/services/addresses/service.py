"""Requests and releases pools and addresses cluster-wide, whatever their space or sub-pool.

All state is in the address book; a restart loses nothing.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address
from random import Random, SystemRandom

from driver.errors import (
    Conflict,
    Exhausted,
    InvalidArgument,
    NotFound,
    SlimError,
    StoreUnavailable,
)
from driver.ipam import allocation
from driver.ipam.allocation import IpAddress
from driver.ipam.pools import Supernet
from driver.model import (
    GLOBAL_HOLDER,
    GLOBAL_SPACE,
    LOCAL_SPACE,
    EndpointId,
    Hold,
    HoldKind,
    HostAddress,
    HostId,
    NetworkId,
)
from driver.services.addresses.holdings import Holdings
from driver.services.addresses.local_uses import Held, LocalUses, Requested, local_uses
from driver.services.addresses.pool_ids import PoolName, parse_pool_id
from driver.services.addresses.pools import PoolRelease, Pools
from driver.services.addresses.releases import AddressRelease, AddressReleases
from driver.services.addresses.requests import AddressRequests, Wish, is_in
from driver.services.addresses.swarm_pools import SWARM_USER, SwarmPools
from driver.services.ports import AddressBook, RoutedNetworks, Subnet
from driver.work.doubts import Doubts
from driver.work.ledger import Ledger
from driver.work.undo import Undo

log = logging.getLogger(__name__)

REQUEST_TYPE = "RequestAddressType"
GATEWAY = "com.docker.network.gateway"
MAC = "com.docker.network.endpoint.macaddress"
NAME = "com.docker.network.endpoint.name"
ROOM = 32  # addresses to make free at once: others want one, too, and the call has a limit


class AddressService:
    """Implements driver.services.ports.Addresses.  Thread-safe."""

    def __init__(self, book: AddressBook, host: HostId, *, supernets: Sequence[Supernet],
                 routed: RoutedNetworks, underlay: HostAddress | None = None,
                 random: Random | None = None, holdings: Holdings | None = None,
                 bury: Callable[[EndpointId], bool] = lambda _: False,
                 orphaned: Callable[[IpAddress], bool] = lambda _: False,
                 request_id: Callable[[], str] = lambda: secrets.token_hex(6),
                 ledger: Ledger | None = None) -> None:
        """holdings: notes of what this host has; None: `host` is another one (forget-host).

        bury: removes an endpoint of this host if it is certainly dead; returns whether it did.
        orphaned: returns whether the address was of an endpoint that ended with this host.
        ledger: repeats what etcd does not confirm; None: the next use does.
        """
        self._book = book
        self._holdings = holdings
        self._host = host
        self._bury = bury
        self._orphaned = orphaned
        self._request_id = request_id
        self._doubts = Doubts("pools and addresses", ledger)
        self._released = itertools.count(1)  # no two releases are the same step
        self._pools = Pools(book, host, supernets=supernets, routed=routed,
                            underlay=underlay, request_id=request_id, doubts=self._doubts)
        self._swarm_pools = SwarmPools(book, host, request_id, routed)
        self._releases = AddressReleases(book)
        self._requests = AddressRequests(book, self._pools, self._releases, self._doubts,
                                         random or SystemRandom())

    def default_spaces(self) -> tuple[str, str]:
        """Return the names of the local and the global address space."""
        return LOCAL_SPACE, GLOBAL_SPACE

    def request_pool(self, space: str, pool: str, sub_pool: str, *, v6: bool,
                     options: dict[str, str]) -> Subnet:  # noqa: ARG002 - none matters
        """Give out a pool, the same one for the same values; "" chooses a free one.

        Errors: InvalidArgument, Conflict (overlaps another subnet), Exhausted,
        StoreUnavailable.
        """
        self._doubts.settle()
        given = self._pools.request(space, pool, sub_pool, v6=v6)
        name = parse_pool_id(given.pool_id)
        if self._holdings is not None and name is not None:
            with Undo() as undo:
                undo.push("release the pool", lambda: self._pools.release(PoolRelease(name)))
                self._holdings.requested(name)
        return given

    def release_pool(self, pool_id: str) -> None:
        """Undo one request_pool; the last release ends the pool.  Unknown: nothing to do.

        Error: StoreUnavailable; the release is then done as soon as the store answers again.
        """
        name = parse_pool_id(pool_id)
        if name is None:
            return
        release = PoolRelease(name)
        if self._holdings is not None:
            self._holdings.released(name)
        try:
            self._doubts.settle()
            self._pools.release(release)
        except StoreUnavailable as error:
            self._doubts.add(f"release {next(self._released)}, of pool {name.id}",
                             lambda: self._pools.release(release), error)
            raise

    def request_address(self, pool_id: str, address: str, *,
                        options: dict[str, str]) -> IPv4Interface | IPv6Interface:
        """Reserve an address of the pool's subnet; "" chooses a free one (or the gateway).

        Errors: InvalidArgument, NotFound (pool), Conflict (in use), Exhausted,
        StoreUnavailable.
        """
        self._doubts.settle()
        wish = self._wish(pool_id, address, options)
        try:
            given = self._request(wish)
        except Conflict:
            if wish.address is None or not self._make_way(wish.name.cidr, wish.address):
                raise
            given = self._request(wish)
        except Exhausted:
            if not self._make_room(wish.name.cidr):
                raise
            given = self._request(wish)
        prefixlen = wish.name.pool.subnet.prefixlen
        if isinstance(given, IPv4Address):
            return IPv4Interface((given, prefixlen))
        return IPv6Interface((given, prefixlen))

    def release_address(self, pool_id: str, address: str) -> None:
        """Undo request_address for this space.  Unknown pool or address: nothing to do.

        After a crash of the host dockerd releases what its containers had before it starts them
        anew.  An address that one of them names (`--ip`) is kept for it meanwhile; if it does not
        come, the address is collected as one that Docker does not know.
        Error: StoreUnavailable; the release is then done as soon as the store answers again.
        """
        name = parse_pool_id(pool_id)
        if name is None:
            return
        released = _parse(address)
        if released not in name.pool.subnet:
            return
        keep = self._orphaned(released) and name.space == LOCAL_SPACE
        release, holder = AddressRelease(name, released, keep=keep), self._holder(name)
        if self._holdings is not None:
            self._holdings.let_go(name, released)
        try:
            self._doubts.settle()
            self._releases.release(release, holder)
        except StoreUnavailable as error:
            self._doubts.add(f"release {next(self._released)}, of address {released}",
                             lambda: self._releases.release(release, holder), error)
            raise

    def hold_pools(self, network_id: NetworkId, cidrs: Sequence[str]) -> None:
        """Assign requested pools to the new swarm network that they are for.  Idempotent.

        Errors: Conflict (it is new, and a network of this host overlaps), StoreUnavailable.
        """
        self._doubts.settle()
        self._swarm_pools.hold(network_id, cidrs)

    def let_pools_go(self, network_id: NetworkId) -> None:
        """Take the pools from a swarm network that goes; they are released next.  Idempotent.

        Never fails, as the manager would then release nothing: without etcd it is done later.
        """
        try:
            self._doubts.settle()
            self._swarm_pools.let_go(network_id)
        except SlimError as error:
            log.warning("swarm network %s holds its pools until etcd can be read: %s",
                        network_id[:12], error)
            self._doubts.add(f"letting pools of swarm network {network_id[:12]} go",
                             lambda: self._swarm_pools.let_go(network_id), error)

    def settle(self) -> None:
        """Do what etcd did not confirm earlier.  Error: StoreUnavailable."""
        self._doubts.settle()

    def enter(self, is_ours: Callable[[EndpointId], bool]) -> list[str]:
        """Put back on record what etcd has lost of this host's; return what is in the way.

        is_ours: whether an endpoint is this host's.
        Errors: StoreUnavailable, UnsupportedRecord, StateError.
        """
        if self._holdings is None:
            return []
        self._doubts.settle()
        self._holdings.fill(self._book)
        return self._holdings.enter(self._book, self._request_id, is_ours)

    def give_up(self) -> None:
        """Release all of this host in its own space.  Errors: StoreUnavailable, StateError."""
        if self._holdings is None:
            return
        uses = self.local_uses()
        self._holdings.clear()
        for held in uses.held:
            self._releases.withdraw(held.cidr, held.address, self._host, held.hold)
        for requested in uses.requested:
            self._pools.release(PoolRelease(requested.name, (self._host, requested.request)))

    def local_uses(self) -> LocalUses:
        """Return what this host has in the local space.  Error: StoreUnavailable."""
        self._doubts.settle()
        return local_uses(self._book, self._host)

    def withdraw_held(self, held: Held) -> None:
        """Release the hold if it is unchanged.  Error: StoreUnavailable."""
        if self._holdings is not None:
            self._holdings.strike(held.cidr, held.address)
        self._releases.withdraw(held.cidr, held.address, self._host, held.hold)

    def withdraw_swarm_request(self, name: PoolName, network_id: NetworkId) -> None:
        """Release a swarm network's request for a pool.  Error: StoreUnavailable."""
        self._pools.release(PoolRelease(name, (SWARM_USER, network_id)))

    def withdraw_requested(self, requested: Requested) -> None:
        """Release this request for a pool if it still exists.  Error: StoreUnavailable."""
        if self._holdings is not None:
            self._holdings.released(requested.name)
        self._pools.release(PoolRelease(requested.name, (self._host, requested.request)))

    def _request(self, wish: Wish) -> IpAddress:
        holdings = self._holdings
        if holdings is None:
            return self._requests.request(wish)
        try:
            given = self._requests.request(wish)
        except NotFound:
            if not holdings.knows(wish.name):
                raise
            # etcd has lost it; dockerd must not be told that its network does not exist.
            holdings.enter(self._book, self._request_id)
            given = self._requests.request(wish)
        with Undo() as undo:
            undo.push("release the address", lambda: self._releases.withdraw(
                wish.name.cidr, given, wish.holder, wish.hold))
            holdings.held(wish.name, given, wish.hold)
        return given

    def _make_way(self, cidr: str, address: IpAddress) -> bool:
        """Release this host's address if its endpoint is dead; return whether it was."""
        found = self._book.reservation(cidr, address).value
        if found is None or not found.endpoint or not self._bury(found.endpoint):
            return False
        if self._host in found.holds:  # given for that endpoint and for no other one since
            self._releases.withdraw(cidr, address, self._host, found.holds[self._host])
        return True

    def _make_room(self, cidr: str) -> bool:
        """Release what dead endpoints of this host have in a full pool; return whether any had.

        dockerd could not say so at its start, as the driver was not there yet.  An address that a
        container names stays: that one asks for it.
        """
        if self._holdings is None:
            return False
        room = 0
        for address in self._holdings.chosen(cidr):
            if room < ROOM and self._make_way(cidr, address):
                self._holdings.strike(cidr, address)  # else it would be taken for lost in etcd
                room += 1
        return room > 0

    def _wish(self, pool_id: str, address: str, options: dict[str, str]) -> Wish:
        name = parse_pool_id(pool_id)
        if name is None:
            raise NotFound(f"pool {pool_id!r} is none of this driver's")
        wanted = _parse(address) if address else None
        span = allocation.usable(name.pool.subnet)
        if wanted is not None and not is_in(span, wanted, name):
            first, last = (allocation.to_address(name.pool.subnet, number)
                           for number in (span.first, span.last))
            raise InvalidArgument(f"address {wanted} is not one for a container of pool "
                                  f"{name.cidr}; want one from {first} to {last}")
        kind = HoldKind.DYNAMIC if wanted is None else HoldKind.EXACT
        if options.get(REQUEST_TYPE) == GATEWAY:
            kind = HoldKind.GATEWAY
        owner = options.get(MAC) or options.get(NAME) or ""
        return Wish(name, wanted, kind, self._holder(name), Hold(
            kind, "" if kind is HoldKind.GATEWAY else owner, self._request_id()))

    def _holder(self, name: PoolName) -> str:
        return GLOBAL_HOLDER if name.space == GLOBAL_SPACE else self._host


def _parse(address: str) -> IpAddress:
    try:
        return ip_address(address)
    except ValueError:
        raise InvalidArgument(f"address {address!r}: want a plain IPv4 or IPv6 address") from None
