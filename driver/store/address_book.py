"""Reads pools and reservations in etcd, and changes them in one transaction each.

services/addresses chooses the pool and the address.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from driver.model import HostId, Reservation, SubnetUse
from driver.services.ports import Versioned
from driver.store.format import keys, records
from driver.store.kv.protocol import Entry, KeyValue, Read, Unchanged
from driver.store.kv.transaction import Transaction, recalling

IpAddress = IPv4Address | IPv6Address


class EtcdAddressBook:
    """driver.services.ports.AddressBook over etcd.  Thread-safe."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    def subnets(self) -> tuple[tuple[str, ...], int]:
        """See ports.AddressBook."""
        # Read the guard first: a subnet created between the two reads then makes the write fail.
        guard = self._kv.get(keys.SUBNET_GUARD)
        listing = self._kv.range(keys.SUBNETS, keys_only=True)
        return (tuple(keys.subnet_of(entry.key) for entry in listing.entries),
                guard.mod_revision if guard else 0)

    def subnet(self, cidr: str, *, recall: bool = False) -> Versioned[SubnetUse]:
        """See ports.AddressBook."""
        entry = self._read(recall)(keys.subnet(cidr))
        if entry is None:
            return Versioned(None, 0)
        return Versioned(records.decode(entry, records.subnet), entry.mod_revision)

    def write_subnet(self, cidr: str, before: Versioned[SubnetUse], after: SubnetUse | None,
                     guard: int | None = None) -> bool:
        """See ports.AddressBook."""
        change = Transaction()
        change.compares.append(Unchanged(keys.subnet(cidr), before.version))
        if after is None:
            self._remove_subnet(cidr, change)
        else:
            change.put(keys.subnet(cidr), records.encode(records.subnet_fields(after)))
        if guard is not None:
            change.compares.append(Unchanged(keys.SUBNET_GUARD, guard))
            change.put(keys.SUBNET_GUARD, records.encode({}))
        return change.commit(self._kv)

    def reservation(self, cidr: str, address: IpAddress, *, recall: bool = False
                    ) -> Versioned[Reservation]:
        """See ports.AddressBook."""
        entry = self._read(recall)(keys.address(cidr, address))
        return _reservation(entry) if entry is not None else Versioned(None, 0)

    def reservations(self, cidr: str) -> list[Versioned[Reservation]]:
        """See ports.AddressBook."""
        return [_reservation(entry) for entry in self._kv.range(keys.addresses(cidr)).entries]

    def taken(self, cidr: str, first: IpAddress, last: IpAddress) -> list[int]:
        """See ports.AddressBook."""
        listing = self._kv.range(keys.addresses(cidr), start=keys.address(cidr, first),
                                 stop=_after(keys.address(cidr, last)), keys_only=True)
        return [int(keys.address_of(entry.key)) for entry in listing.entries]

    def count_taken(self, cidr: str, first: IpAddress, last: IpAddress) -> int:
        """See ports.AddressBook."""
        return self._kv.count(keys.addresses(cidr), start=keys.address(cidr, first),
                              stop=_after(keys.address(cidr, last)))

    def owned(self, cidr: str, holder: str, owner: str) -> Versioned[IpAddress]:
        """See ports.AddressBook."""
        entry = self._kv.get(keys.owner(cidr, holder, owner))
        if entry is None:
            return Versioned(None, 0)
        return Versioned(records.decode(entry, records.address), entry.mod_revision)

    def write_reservation(self, subnet: Versioned[SubnetUse], cidr: str,
                          before: Versioned[Reservation], after: Reservation, *,
                          subnet_after: SubnetUse | None = None,
                          owned: Versioned[IpAddress] | None = None) -> bool:
        """See ports.AddressBook."""
        change = Transaction()
        key = keys.address(cidr, after.address)
        change.compares.append(Unchanged(key, before.version))
        change.compares.append(Unchanged(keys.subnet(cidr), subnet.version))
        if after.free:
            change.delete(key)
        else:
            change.put(key, records.encode(records.reservation_fields(after)))
        if subnet_after is not None:
            change.put(keys.subnet(cidr), records.encode(records.subnet_fields(subnet_after)))
        self._change_owners(cidr, before.value, after, owned, change)
        return change.commit(self._kv)

    def write_owner(self, cidr: str, reservation: Versioned[Reservation], holder: str,
                    owned: Versioned[IpAddress]) -> bool:
        """See ports.AddressBook."""
        assert reservation.value is not None
        address, owner = reservation.value.address, reservation.value.holds[HostId(holder)].owner
        change = Transaction()
        change.compares.append(Unchanged(keys.address(cidr, address), reservation.version))
        _put_owner(change, keys.owner(cidr, holder, owner), owned, address)
        return change.commit(self._kv)

    def _read(self, recall: bool) -> Read:
        return recalling(self._kv) if recall else self._kv.get

    def _remove_subnet(self, cidr: str, change: Transaction) -> None:
        change.delete(keys.subnet(cidr))
        cidrs, guard = self.subnets()
        if cidrs == (cidr,):
            # The last subnet: the same transaction deletes the guard too, so that it is absent
            # only while there is no subnet at all.
            change.compares.append(Unchanged(keys.SUBNET_GUARD, guard))
            change.delete(keys.SUBNET_GUARD)

    def _change_owners(self, cidr: str, before: Reservation | None, after: Reservation,
                       owned: Versioned[IpAddress] | None, change: Transaction) -> None:
        old = before.holds if before else {}
        for holder, hold in after.holds.items():
            if hold.owner and old.get(holder) != hold and owned is not None:
                _put_owner(change, keys.owner(cidr, holder, hold.owner), owned, after.address)
        for holder, hold in old.items():
            if hold.owner and holder not in after.holds:
                current = self.owned(cidr, holder, hold.owner)
                # By now it may name a newer address of the same owner.
                if current.value == after.address:
                    key = keys.owner(cidr, holder, hold.owner)
                    change.compares.append(Unchanged(key, current.version))
                    change.delete(key)


def _reservation(entry: Entry) -> Versioned[Reservation]:
    return Versioned(records.decode(entry, records.reservation), entry.mod_revision)


def _put_owner(change: Transaction, key: str, owned: Versioned[IpAddress], address: IpAddress
               ) -> None:
    change.compares.append(Unchanged(key, owned.version))
    change.put(key, records.encode({"address": str(address)}))


def _after(key: str) -> str:
    return key + "\0"  # the smallest key after this one
