"""Ends holds of addresses that were released or given out to nobody.

All operations are idempotent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from driver.errors import StoreUnavailable
from driver.ipam.allocation import IpAddress
from driver.model import GLOBAL_HOLDER, KEPT, Hold, HoldKind, Reservation, SubnetUse
from driver.services.addresses.pool_ids import PoolName
from driver.services.addresses.pools import uses_of
from driver.services.ports import AddressBook
from driver.work import contended


@dataclass
class AddressRelease:
    """One ReleaseAddress.  The hold to end is chosen on the first attempt and kept for retries.

    An attempt without an answer may have succeeded, and the address may have a new owner by now.
    """

    name: PoolName
    address: IpAddress
    hold: Hold | None = None
    keep: bool = False  # if it was asked for by name: nobody else may have it yet


class AddressReleases:
    """Ends holds.  Stateless.  Thread-safe.  All errors: StoreUnavailable."""

    def __init__(self, book: AddressBook) -> None:
        self._book = book

    def release(self, release: AddressRelease, holder: str) -> None:
        """End the holder's hold, which is noted in `release` as soon as it is known."""
        name = release.name
        for attempt in contended.attempts(recalled=True):
            # Only this host changes what is held for it, so a recalled hold was its own; a
            # swarm's managers take turns.
            recall = attempt == 0 and holder != GLOBAL_HOLDER
            subnet = self._book.subnet(name.cidr, recall=recall)
            before = self._book.reservation(name.cidr, release.address, recall=recall)
            hold = before.value.holds.get(holder) if before.value is not None else None
            if before.value is None or hold is None or release.hold not in (None, hold) or (
                    _still_gateway(name, subnet.value, before.value, holder)):
                if recall:
                    continue  # no write follows that would notice outdated values
                return
            release.hold = hold
            after = (before.value.held(holder, replace(hold, owner=KEPT))
                     if release.keep and hold.kind is HoldKind.EXACT
                     else before.value.released(holder))
            if self._book.write_reservation(
                    subnet, name.cidr, before, after,
                    subnet_after=_without_gateway(subnet.value, after)):
                return
        raise StoreUnavailable(
            f"address {release.address} has too many concurrent changes; try again")

    def withdraw(self, cidr: str, address: IpAddress, holder: str, hold: Hold) -> None:
        """Release exactly this hold; another hold of the same holder stays."""
        for _ in contended.attempts():
            subnet = self._book.subnet(cidr)
            before = self._book.reservation(cidr, address)
            if before.value is None or before.value.holds.get(holder) != hold:
                return
            after = before.value.released(holder)
            if self._book.write_reservation(
                    subnet, cidr, before, after,
                    subnet_after=_without_gateway(subnet.value, after)):
                return
        raise StoreUnavailable(f"address {address} has too many concurrent changes; try again")


def _still_gateway(name: PoolName, subnet: SubnetUse | None, found: Reservation,
                   holder: str) -> bool:
    # Two networks of one host, or of a swarm, can have the same pool and so the same gateway:
    # the first one to end leaves it to the other.  (ReleasePool comes after this.)
    return (found.holds[holder].kind is HoldKind.GATEWAY
            and uses_of(subnet, name.space, holder) > 1)


def _without_gateway(subnet: SubnetUse | None, after: Reservation) -> SubnetUse | None:
    """Return the subnet without its gateway if `after` is no longer held as one; else None."""
    if subnet is None or subnet.gateway != after.address or any(
            hold.kind is HoldKind.GATEWAY for hold in after.holds.values()):
        return None
    return replace(subnet, gateway=None)
