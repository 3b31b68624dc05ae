"""What is durable in etcd, as the use cases write and read it.

Which key holds what is the store's matter.
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
               host_path: HostPath = HostPath.AUTO) -> Network:
        """Store the network and this host's part in it; allot a VNI if the key is new.

        Asking again with the same values returns the same Network.
        Errors: Conflict (other values), Exhausted (no VNI left), StoreUnavailable.
        """

    def delete(self, network_id: NetworkId) -> None:
        """Forget the network here; the last host to do so frees key and VNI."""

    def get(self, network_id: NetworkId) -> Network | None: ...

    def list(self) -> list[Network]:
        """All networks of this host."""

    def on_record(self) -> Sequence[Network]:
        """What etcd has of this host's now, as far as it can be read.  Error: StoreUnavailable."""

    def enter(self, network: Network) -> bool:
        """Put it on record again, with its VNI, where etcd lacks it or says something else.

        Returns whether there was anything to do.  Errors: Conflict (names what is in the way),
        UnsupportedRecord (what is there cannot be read, and was left alone), StoreUnavailable.
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
        """Remove the record, and say so to others; its reservation stays, unbound, until
        ReleaseAddress.

        known: as this host knows it, in case that etcd has lost its record.
        """

    def get(self, endpoint_id: EndpointId) -> Endpoint | None:
        """Return an endpoint of this host."""

    def list(self) -> list[Endpoint]:
        """All endpoints of this host."""

    def on_record(self) -> Sequence[Endpoint]:
        """See Networks.on_record."""

    def enter(self, endpoint: Endpoint) -> bool:
        """See Networks.enter; its addresses are bound to it again.  Error, too: NotFound (network).
        """


class Absences(Protocol):
    """Hosts that have registered once, and what is on record about those without a lease.

    All errors: StoreUnavailable, UnsupportedRecord.  Of several drivers that try the same step
    one succeeds; for the others it returns False or None.
    """

    def known(self) -> dict[HostId, KnownHost]: ...

    def registered(self) -> set[HostId]:
        """Those of them that have a lease now."""

    def get(self, host_id: HostId) -> Absence | None: ...

    def note(self, known: KnownHost, before: Absence | None, seen: Seen) -> bool:
        """Put on record what was seen of it, if it has no lease.  Its time begins with GONE.

        `before`: as read; nothing is being removed yet.
        """

    def left_s(self, absence: Absence) -> int | None:
        """Seconds for which it may still be gone, 0: none any more, None: for ever."""

    def begin(self, host_id: HostId, before: Absence | None, removal: Removal, *,
              registered: bool = False) -> Absence | None:
        """Put on record that its records are being removed; then, and only then, they may be.

        `before`: as read.  registered: also of a host with a lease, which it then loses.
        """

    def finish(self, absence: Absence) -> bool:
        """Put on record that all is removed; after EVERYTHING the host is not known any more."""


class VipRecords(Protocol):
    """Services in etcd, written by one manager of each swarm.  All errors: StoreUnavailable."""

    def lead(self, swarm_id: str) -> bool:
        """Become the one who publishes, or stay it; to be asked every few seconds."""

    def resign(self) -> None:
        """Let another one publish, at once."""

    def publish(self, services: Collection[Vip]) -> bool:
        """Make these all of the swarm's services; True: some had been lost since the last time.

        Error: Conflict (somebody else publishes by now), and then nothing was written.
        """
