"""This host's own networks and endpoints: its notes are the truth of them, etcd has the copy.

What a host has is noted on its own disk when it is on record, and struck off before it is deleted
there.  So data that etcd has lost, or that cannot be read, is missing in etcd and nowhere else
(docs/decisions/0012).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from driver.errors import NotFound, SlimError, StateError, StoreUnavailable
from driver.model import Endpoint, EndpointId, HostPath, Network, NetworkId, NetworkKey
from driver.services.notes.step import put_or_restore
from driver.services.ports import Endpoints, Networks, Notes
from driver.work.undo import run_all

K = TypeVar("K", bound=str)
T = TypeVar("T")

log = logging.getLogger(__name__)


class OwnNetworks(Networks, Protocol):
    """This host's networks, whatever etcd says of them."""

    def note(self, network: Network) -> None:
        """Note one that is on record.  Error: StateError."""


class OwnEndpoints(Endpoints, Protocol):
    """This host's endpoints, whatever etcd says of them."""

    def note(self, endpoint: Endpoint) -> None:
        """Note one that is on record.  Error: StateError."""


class Noted(Generic[K, T]):
    """The objects of one kind, by id.  Thread-safe.

    Until a host has notes (its first start with a driver that keeps them) they are completed from
    etcd, which has to answer for that; from then on nothing of it is asked of etcd.
    """

    def __init__(self, notes: Notes[T], read: Callable[[], Iterable[T]],
                 identify: Callable[[T], K]) -> None:
        """read: what etcd has, may raise StoreUnavailable.  Error: StateError."""
        self._notes = notes
        self._read = read
        self._identify = identify
        self._lock = threading.Lock()
        self._items: dict[K, T] = {identify(item): item for item in notes.all().values()}
        self._complete = notes.is_complete()
        self._struck: set[K] = set()  # until it is complete: what etcd may still show

    def all(self) -> dict[K, T]:
        """Return everything.  Errors: StoreUnavailable, StateError; only before it is complete."""
        if not self._complete:
            self._fill()
        with self._lock:
            return dict(self._items)

    def get(self, key: K) -> T | None:
        """Return one, None if this host has none.  Errors: see `all`."""
        if not self._complete:
            self._fill()
        with self._lock:
            return self._items.get(key)

    def put(self, item: T) -> None:
        """Note it.  Error: StateError, and then all is as before."""
        key = self._identify(item)
        with self._lock:
            before = self._items.get(key)
            if before != item:
                put_or_restore(self._notes, key, item, before)
                self._items[key] = item
            self._struck.discard(key)

    def strike(self, key: K) -> None:
        """Forget it.  Idempotent.  Error: StateError, and then it is still noted."""
        with self._lock:
            self._notes.remove(key)
            self._items.pop(key, None)
            if not self._complete:
                self._struck.add(key)

    def _fill(self) -> None:
        found = list(self._read())
        with self._lock:
            if self._complete:
                return
            for item in found:
                key = self._identify(item)
                if key not in self._items and key not in self._struck:
                    self._notes.put(key, item)
                    self._items[key] = item
            self._notes.complete()
            self._complete = True
            self._struck.clear()


class NotedNetworks:
    """services.ports.Networks: as `records` has them, read from notes."""

    def __init__(self, records: Networks, notes: Notes[Network]) -> None:
        """Error: StateError."""
        self._records = records
        self._noted: Noted[NetworkId, Network] = Noted(
            notes, records.list, lambda network: network.id)

    def create(self, network_id: NetworkId, key: NetworkKey, *, subnets: tuple[str, ...],
               internal: bool, mtu: int, vip: bool = True,
               host_path: HostPath = HostPath.AUTO) -> Network:
        """See ports.Networks.  Error, too: StateError."""
        network = self._records.create(network_id, key, subnets=subnets, internal=internal,
                                       mtu=mtu, vip=vip, host_path=host_path)
        try:
            self._noted.put(network)
        except StateError:
            with suppress(SlimError):
                self._records.delete(network_id)
            raise
        return network

    def enter(self, network: Network) -> bool:
        """See ports.Networks."""
        return self._records.enter(network)

    def delete(self, network_id: NetworkId) -> None:
        """See ports.Networks.  Error, too: StateError."""
        run_all([("strike the note off", lambda: self._noted.strike(network_id)),
                 ("delete the record", lambda: self._records.delete(network_id))])

    def get(self, network_id: NetworkId) -> Network | None:
        """See ports.Networks."""
        return self._noted.get(network_id)

    def list(self) -> list[Network]:
        """See ports.Networks."""
        return list(self._noted.all().values())

    def on_record(self) -> Sequence[Network]:
        """See ports.Networks."""
        return self._records.on_record()

    def note(self, network: Network) -> None:
        """Note one that is on record.  Error: StateError."""
        self._noted.put(network)


class NotedEndpoints:
    """services.ports.Endpoints: as `records` has them, read from notes."""

    def __init__(self, records: Endpoints, notes: Notes[Endpoint],
                 on_missing: Callable[[EndpointId], None] = lambda _id: None) -> None:
        """on_missing: told which one etcd has lost, when that is found by chance.

        Error: StateError.
        """
        self._records = records
        self.on_missing = on_missing
        self._noted: Noted[EndpointId, Endpoint] = Noted(
            notes, records.list, lambda endpoint: endpoint.id)

    def create(self, endpoint: Endpoint) -> None:
        """See ports.Endpoints.  Error, too: StateError."""
        self._records.create(endpoint)
        try:
            self._noted.put(endpoint)
        except StateError:
            with suppress(SlimError):
                self._records.delete(endpoint.id)
            raise

    def replace(self, endpoint: Endpoint) -> None:
        """See ports.Endpoints; one that etcd has lost is changed in the notes.

        Error, too: StateError.
        """
        if self._noted.get(endpoint.id) is None:
            raise NotFound(f"endpoint {endpoint.id[:12]} does not exist on this host")
        try:
            self._records.replace(endpoint)
        except NotFound:
            self._noted.put(endpoint)
            self.on_missing(endpoint.id)
        else:
            self._noted.put(endpoint)

    def enter(self, endpoint: Endpoint) -> bool:
        """See ports.Endpoints."""
        return self._records.enter(endpoint)

    def delete(self, endpoint_id: EndpointId, known: Endpoint | None = None) -> None:
        """See ports.Endpoints.  Error, too: StateError."""
        with suppress(StoreUnavailable):
            known = known or self._noted.get(endpoint_id)
        run_all([("strike the note off", lambda: self._noted.strike(endpoint_id)),
                 ("delete the record", lambda: self._records.delete(endpoint_id, known))])

    def get(self, endpoint_id: EndpointId) -> Endpoint | None:
        """See ports.Endpoints."""
        return self._noted.get(endpoint_id)

    def list(self) -> list[Endpoint]:
        """See ports.Endpoints."""
        return list(self._noted.all().values())

    def on_record(self) -> Sequence[Endpoint]:
        """See ports.Endpoints."""
        return self._records.on_record()

    def note(self, endpoint: Endpoint) -> None:
        """Note one that is on record.  Error: StateError."""
        self._noted.put(endpoint)
