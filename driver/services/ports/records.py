"""Defines what is durable in etcd, as the use cases write and read it.

The store chooses the keys.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from driver.model import (
    Absence,
    Endpoint,
    EndpointId,
    HostId,
    HostPath,
    KnownHost,
    Network,
    NetworkId,
    NetworkKey,
    Removal,
    Seen,
    Vip,
)


class Networks(Protocol):
    """The networks of this host, durable in etcd (CreateNetwork is never replayed)."""

    def create(self, network_id: NetworkId, key: NetworkKey, *, subnets: tuple[str, ...],
               internal: bool, mtu: int, vip: bool = True,
               host_path: HostPath = HostPath.AUTO, names: bool = True) -> Network:
        """Store the network and this host's part in it; allot a VNI if the key is new.

        A repeated call with the same values returns the same Network.
        Errors: Conflict (other values), Exhausted (no VNI left), StoreUnavailable.
        """

    def delete(self, network_id: NetworkId) -> None:
        """Remove the network from this host; the last host to do so frees key and VNI."""

    def get(self, network_id: NetworkId) -> Network | None: ...

    def list(self) -> list[Network]:
        """Return all networks of this host."""

    def on_record(self) -> Sequence[Network]:
        """Return this host's readable records that etcd has now.  Error: StoreUnavailable."""

    def enter(self, network: Network) -> bool:
        """Put it back on record, with its VNI, if etcd lacks it or has another value.

        Return whether anything had to be done.  Errors: Conflict (names what is in the way),
        UnsupportedRecord (an unreadable record, which was left alone), StoreUnavailable.
        """


class Endpoints(Protocol):
    """Endpoint records in etcd.  Every host that serves the network watches them."""

    def create(self, endpoint: Endpoint) -> None:
        """Write the record and bind its address reservations to it, in one transaction.

        Errors: Conflict (id exists with other values; address belongs to another live
        endpoint of the network), StoreUnavailable.
        """

    def replace(self, endpoint: Endpoint) -> None:
        """Overwrite the record of an endpoint of this host.  Error: NotFound."""

    def delete(self, endpoint_id: EndpointId, known: Endpoint | None = None) -> None:
        """Remove the record and tell others so; its reservation stays, unbound, until
        ReleaseAddress.

        known: the endpoint as this host knows it, in case etcd has lost its record.
        """

    def get(self, endpoint_id: EndpointId) -> Endpoint | None:
        """Return an endpoint of this host."""

    def list(self) -> list[Endpoint]:
        """Return all endpoints of this host."""

    def on_record(self) -> Sequence[Endpoint]:
        """See Networks.on_record."""

    def enter(self, endpoint: Endpoint) -> bool:
        """See Networks.enter; also binds its addresses to it again.

        Further error: NotFound (network).
        """


class Absences(Protocol):
    """Hosts that have ever registered, and what is on record about those without a lease.

    All errors: StoreUnavailable, UnsupportedRecord.  If several drivers try the same step, one
    succeeds, and the others get False or None.
    """

    def known(self) -> dict[HostId, KnownHost]: ...

    def registered(self) -> set[HostId]:
        """Return the known hosts that have a lease now."""

    def get(self, host_id: HostId) -> Absence | None: ...

    def note(self, known: KnownHost, before: Absence | None, seen: Seen) -> bool:
        """Put on record what was seen of the host, if it has no lease.  Its time starts with GONE.

        `before`: as read; no removal has begun.
        """

    def left_s(self, absence: Absence) -> int | None:
        """Return the seconds for which it may still be gone; 0: none; None: for ever."""

    def begin(self, host_id: HostId, before: Absence | None, removal: Removal, *,
              registered: bool = False) -> Absence | None:
        """Put on record that its records are being removed; only then may they be removed.

        `before`: as read.  registered: allow it for a host with a lease, which it then loses.
        """

    def finish(self, absence: Absence) -> bool:
        """Put on record that the removal is done; after EVERYTHING the host is no longer known."""


class VipRecords(Protocol):
    """Services in etcd, written by one manager per swarm.  All errors: StoreUnavailable."""

    def lead(self, swarm_id: str) -> bool:
        """Become or stay the manager that publishes; to be called every few seconds."""

    def resign(self) -> None:
        """Let another manager publish at once."""

    def publish(self, services: Collection[Vip]) -> bool:
        """Replace the swarm's services by these; True: some had been lost since the last call.

        Error: Conflict (another manager publishes by now), and then nothing was written.
        """
