"""Notes the pools and addresses that this host has requested of our IPAM in its own space.

They are entered again in etcd if it has lost them.  What swarm managers hold together is not noted
here: services/swarm/holdings.py enters it from what Docker says.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_address

from driver.errors import Conflict, StoreUnavailable, UnsupportedRecord
from driver.ipam.allocation import IpAddress
from driver.model import (
    GLOBAL_HOLDER,
    LOCAL_SPACE,
    STAND_IN,
    EndpointId,
    Hold,
    HoldKind,
    HostId,
    PoolUse,
    Reservation,
    SubnetUse,
)
from driver.services.addresses.local_uses import local_uses
from driver.services.addresses.pool_ids import PoolName, parse_pool_id
from driver.services.notes.step import put_or_restore
from driver.services.ports import AddressBook, HoldNote, Notes, PoolNote
from driver.work import contended

log = logging.getLogger(__name__)


class Holdings:
    """The notes, and what follows from them.  Thread-safe.  All errors: StateError."""

    def __init__(self, host: HostId, pools: Notes[PoolNote], holds: Notes[HoldNote]) -> None:
        self._host = host
        self._pool_notes = pools
        self._hold_notes = holds
        self._lock = threading.Lock()
        self._pools = pools.all()
        self._holds = holds.all()

    def requested(self, name: PoolName) -> None:
        """Note that a request for a pool was granted."""
        self._count(name, 1)

    def released(self, name: PoolName) -> None:
        """Note that a request for a pool is about to be released."""
        self._count(name, -1)

    def held(self, name: PoolName, address: IpAddress, hold: Hold) -> None:
        """Note that an address was granted."""
        if name.space == LOCAL_SPACE:
            key = _key(name.cidr, address)
            with self._lock:
                before = self._holds.get(key)
                if before is not None and before.hold.owner == hold.owner:
                    return  # a repeated request
                note = HoldNote(name.id, str(address), hold)
                self._holds.pop(key, None)  # its previous owner no longer has it
                put_or_restore(self._hold_notes, key, note, None)
                self._holds[key] = note

    def chosen(self, cidr: str) -> list[IpAddress]:
        """Return this host's addresses of the subnet that no container names."""
        with self._lock:
            return [ip_address(note.address) for key, note in self._holds.items()
                    if note.hold.kind is HoldKind.DYNAMIC and key.startswith(_key(cidr, ""))]

    def let_go(self, name: PoolName, address: IpAddress) -> None:
        """Note that an address is about to be released."""
        key = _key(name.cidr, address)
        with self._lock:
            found = self._holds.get(key)
            if name.space != LOCAL_SPACE or found is None:
                return
            # Networks of one pool share their gateway: the end of the last one releases it.
            if found.hold.kind is HoldKind.GATEWAY and self._requests(name.cidr) > 1:
                return
            self._hold_notes.remove(key)
            del self._holds[key]

    def strike(self, cidr: str, address: IpAddress) -> None:
        """Note the release of an address that Docker does not know."""
        with self._lock:
            self._hold_notes.remove(_key(cidr, address))
            self._holds.pop(_key(cidr, address), None)

    def clear(self) -> None:
        """Remove all notes: everything was taken from this host."""
        with self._lock:
            for key in list(self._holds):
                self._hold_notes.remove(key)
                del self._holds[key]
            for pool_id in list(self._pools):
                self._pool_notes.remove(pool_id)
                del self._pools[pool_id]

    def knows(self, name: PoolName) -> bool:
        """Tell whether this host has requested the pool."""
        with self._lock:
            return name.id in self._pools

    def has_pool(self, cidr: str) -> bool:
        """Tell whether this host has requested a pool of the subnet."""
        with self._lock:
            return self._requests(cidr) > 0

    def has(self, cidr: str, address: IpAddress) -> bool:
        """Tell whether this host holds the address."""
        with self._lock:
            return _key(cidr, address) in self._holds

    def has_owner(self, cidr: str, owner: str) -> bool:
        """Tell whether this host holds an address that was chosen for `owner`."""
        with self._lock:
            return any(note.hold.owner == owner and note.hold.kind is HoldKind.DYNAMIC
                       for key, note in self._holds.items() if key.startswith(_key(cidr, "")))

    def fill(self, book: AddressBook) -> None:
        """Note what this host had before it kept notes.

        Further errors: StoreUnavailable, UnsupportedRecord.
        """
        if self._pool_notes.is_complete():
            return
        found = Counter(each.name for each in local_uses(book, self._host).requested)
        for name, count in found.items():
            if not self.knows(name):
                self._count(name, count)
            for reservation in book.reservations(name.cidr):
                hold = reservation.value.holds.get(self._host) if reservation.value else None
                if reservation.value is not None and hold is not None:
                    self.held(name, reservation.value.address, hold)
        self._pool_notes.complete()

    def enter(self, book: AddressBook, request_id: Callable[[], str],
              is_ours: Callable[[EndpointId], bool] = lambda _: False) -> list[str]:
        """Put back on record what etcd lacks; return descriptions of what is in the way.

        is_ours: whether an endpoint is this host's.
        A concurrent release may be undone: the left-over is collected, as Docker does not know
        it.  Error: StoreUnavailable.
        """
        with self._lock:
            pools, holds = list(self._pools.values()), list(self._holds.values())
        conflicts = []
        for pool in pools:
            name = parse_pool_id(pool.pool_id)
            if name is None:
                continue
            try:
                _change(book, name.cidr, partial(self._with_requests, name, request_id))
            except UnsupportedRecord as error:
                conflicts.append(str(error))
        for note in holds:
            name = parse_pool_id(note.pool_id)
            if name is None:
                continue
            try:
                self._enter_hold(book, name, note, is_ours)
            except (Conflict, UnsupportedRecord) as error:
                conflicts.append(str(error))
        return conflicts

    def _enter_hold(self, book: AddressBook, name: PoolName, note: HoldNote,
                    is_ours: Callable[[EndpointId], bool]) -> None:
        address = ip_address(note.address)
        for _ in contended.attempts():
            subnet = book.subnet(name.cidr)
            before = book.reservation(name.cidr, address)
            found = before.value or Reservation(address)
            if is_ours(found.endpoint):
                found = self._without_stand_in(found, note.hold)
            with self._lock:
                noted = _key(name.cidr, address) in self._holds
            if subnet.value is None or not noted:
                return
            gateway = note.hold.kind is HoldKind.GATEWAY and subnet.value.gateway is None
            # An address that was requested by its number needs no owner record to be found.
            owned = (book.owned(name.cidr, self._host, note.hold.owner)
                     if note.hold.owner and note.hold.kind is HoldKind.DYNAMIC else None)
            if self._host in found.holds and not gateway:
                if owned is None or owned.value is not None or found.holds[self._host] != note.hold:
                    return
                if book.write_owner(name.cidr, before, self._host, owned):
                    log.warning("who asked for address %s of this host is on record again", address)
                    return
                continue
            if found.holds.keys() - {self._host} and note.hold.kind is HoldKind.DYNAMIC:
                others = ", ".join(sorted(holder[:12] for holder in found.holds))
                raise Conflict(f"address {address}, which this host holds, is held by {others} "
                               "in etcd")
            if book.write_reservation(
                    subnet, name.cidr, before, found.held(self._host, note.hold), owned=owned,
                    subnet_after=replace(subnet.value, gateway=address) if gateway else None):
                log.warning("address %s of this host is on record again", address)
                return
        raise StoreUnavailable(f"address {address} has too many concurrent changes; try again")

    def _without_stand_in(self, found: Reservation, noted: Hold) -> Reservation:
        """Return it without what our endpoint got when it was entered before its address was.

        The note knows better who requested the address, and who will release it.
        """
        for holder in (self._host, GLOBAL_HOLDER):
            if found.holds.get(holder) == STAND_IN != noted:
                found = found.released(holder)
        return found

    def _count(self, name: PoolName, by: int) -> None:
        if name.space != LOCAL_SPACE:
            return
        with self._lock:
            before = self._pools.get(name.id)
            after = (before.requests if before else 0) + by
            if after > 0:
                note = PoolNote(name.id, after)
                put_or_restore(self._pool_notes, name.id, note, before)
                self._pools[name.id] = note
            elif before is not None:
                if self._requests(name.cidr) == before.requests:
                    self._strike_all(name.cidr)  # its record goes with all its holds
                self._pool_notes.remove(name.id)
                del self._pools[name.id]

    def _strike_all(self, cidr: str) -> None:
        for key in [each for each in self._holds if each.startswith(_key(cidr, ""))]:
            self._hold_notes.remove(key)
            del self._holds[key]

    def _with_requests(self, name: PoolName, request_id: Callable[[], str], use: SubnetUse
                       ) -> SubnetUse:
        """Return `use` as the current notes require it: a release removes its note first."""
        with self._lock:
            note = self._pools.get(name.id)
        return _with_requests(use, name, self._host, note.requests if note else 0, request_id)

    def _requests(self, cidr: str) -> int:
        names = [(parse_pool_id(note.pool_id), note.requests) for note in self._pools.values()]
        return sum(requests for name, requests in names if name is not None and name.cidr == cidr)


def _key(cidr: str, address: IpAddress | str) -> str:
    return f"{cidr} {address}"


def _change(book: AddressBook, cidr: str, change: Callable[[SubnetUse], SubnetUse]) -> None:
    for _ in contended.attempts():
        before = book.subnet(cidr)
        use = before.value or SubnetUse(cidr, None, ())
        after = change(use)
        if after == use:
            return
        # No check whether it overlaps another subnet: it was here first.
        guard = book.subnets()[1] if before.value is None else None
        if book.write_subnet(cidr, before, after, guard):
            log.warning("pool %s of this host is on record again", cidr)
            return
    raise StoreUnavailable(f"pool {cidr} has too many concurrent changes; try again")


def _with_requests(use: SubnetUse, name: PoolName, host: HostId, wanted: int,
                   request_id: Callable[[], str]) -> SubnetUse:
    pool = next((each for each in use.pools if (each.space, each.sub_pool) == (
        name.space, name.sub_pool)), PoolUse(name.space, name.sub_pool, {}))
    ids = pool.requests.get(host, ())
    if len(ids) >= wanted:
        return use
    more = tuple(request_id() for _ in range(wanted - len(ids)))
    return _replaced(use, pool, {**pool.requests, host: (*ids, *more)})


def _replaced(use: SubnetUse, pool: PoolUse, requests: dict[str, tuple[str, ...]]) -> SubnetUse:
    others = tuple(each for each in use.pools if (each.space, each.sub_pool) != (
        pool.space, pool.sub_pool))
    return replace(use, pools=(*others, replace(pool, requests=requests)))
