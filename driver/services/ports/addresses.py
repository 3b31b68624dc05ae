"""Defines pools and reservations: what the API asks of IPAM, and what IPAM asks of etcd.

services/addresses chooses the addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Generic, Protocol, TypeVar

from driver.model import NetworkId, Reservation, SubnetUse

T = TypeVar("T")


@dataclass(frozen=True)
class Subnet:
    """A pool as its requester sees it."""

    pool_id: str
    subnet: str  # CIDR, network form


class Addresses(Protocol):
    """IPAM: pools and reservations, cluster-wide.  Implemented by services/addresses."""

    def request_pool(self, space: str, pool: str, sub_pool: str, *, v6: bool,
                     options: dict[str, str]) -> Subnet: ...

    def release_pool(self, pool_id: str) -> None: ...

    def hold_pools(self, network_id: NetworkId, cidrs: Sequence[str]) -> None: ...

    def let_pools_go(self, network_id: NetworkId) -> None: ...

    def request_address(self, pool_id: str, address: str, *,
                        options: dict[str, str]) -> IPv4Interface | IPv6Interface: ...

    def release_address(self, pool_id: str, address: str) -> None: ...


@dataclass(frozen=True)
class Versioned(Generic[T]):
    """A record as it was read; `version` 0 and `value` None: there is no record."""

    value: T | None
    version: int


class AddressBook(Protocol):
    """Pools and reservations in etcd.  All errors: StoreUnavailable, UnsupportedRecord.

    A write returns False if something has changed since it was read: read again.  A write whose
    outcome is unknown, even after reading back, raises StoreUnavailable.  With `recall`, a read may
    return what this host saw last: use it only for values that the following write compares.
    """

    def subnets(self) -> tuple[tuple[str, ...], int]:
        """Return the CIDRs of the cluster's subnets, and the version that guards that list."""

    def subnet(self, cidr: str, *, recall: bool = False) -> Versioned[SubnetUse]: ...

    def write_subnet(self, cidr: str, before: Versioned[SubnetUse], after: SubnetUse | None,
                     guard: int | None = None) -> bool:
        """Put or (None) remove; with `guard`, only if no subnet was added since that version."""

    def reservation(self, cidr: str, address: IPv4Address | IPv6Address, *, recall: bool = False
                    ) -> Versioned[Reservation]: ...

    def reservations(self, cidr: str) -> list[Versioned[Reservation]]: ...

    def taken(self, cidr: str, first: IPv4Address | IPv6Address,
              last: IPv4Address | IPv6Address) -> list[int]:
        """Return the reserved addresses from `first` to `last` (inclusive) as numbers."""

    def count_taken(self, cidr: str, first: IPv4Address | IPv6Address,
                    last: IPv4Address | IPv6Address) -> int:
        """Count what `taken` would return."""

    def owned(self, cidr: str, holder: str, owner: str
              ) -> Versioned[IPv4Address | IPv6Address]:
        """Return the address that `owner` was given last."""

    def write_reservation(self, subnet: Versioned[SubnetUse], cidr: str,
                          before: Versioned[Reservation], after: Reservation, *,
                          subnet_after: SubnetUse | None = None,
                          owned: Versioned[IPv4Address | IPv6Address] | None = None) -> bool:
        """Put, or remove if `after` is free, provided that the subnet is also as read.

        `subnet_after`: write this as well.  `owned`: as read; entered for new holds, provided that
        it is unchanged, and removed with holds that go.
        """

    def write_owner(self, cidr: str, reservation: Versioned[Reservation], holder: str,
                    owned: Versioned[IPv4Address | IPv6Address]) -> bool:
        """Record that the owner of `holder`'s hold was given this address.

        reservation, owned: as read; False: one of them has changed since, and nothing was written.
        """
