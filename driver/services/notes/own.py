"""Keeps this host's own networks and endpoints: its notes are the truth, etcd has the copy.

An object is noted on the host's disk once it is on record, and its note is removed before its
record.  So data that etcd has lost, or that cannot be read, is missing in etcd and nowhere else
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
        """Note a network that is on record.  Error: StateError."""


class OwnEndpoints(Endpoints, Protocol):
    """This host's endpoints, whatever etcd says of them."""

    def note(self, endpoint: Endpoint) -> None:
        """Note an endpoint that is on record.  Error: StateError."""


class Noted(Generic[K, T]):
    """The objects of one kind, by id.  Thread-safe.

    At a host's first start with a driver that keeps notes, they are completed from etcd, which must
    answer for that.  From then on they are not read from etcd.
    """

    def __init__(self, notes: Notes[T], read: Callable[[], Iterable[T]],
                 identify: Callable[[T], K]) -> None:
        """read: returns what etcd has; may raise StoreUnavailable.  Error: StateError."""
        self._notes = notes
        self._read = read
        self._identify = identify
        self._lock = threading.Lock()
        self._items: dict[K, T] = {identify(item): item for item in notes.all().values()}
        self._complete = notes.is_complete()
        self._struck: set[K] = set()  # until the notes are complete: etcd may still list these

    def all(self) -> dict[K, T]:
        """Return everything.  Errors: StoreUnavailable, StateError; only until it is complete."""
        if not self._complete:
            self._fill()
        with self._lock:
            return dict(self._items)

    def get(self, key: K) -> T | None:
        """Return one object; None if this host does not have it.  Errors: see `all`."""
        if not self._complete:
            self._fill()
        with self._lock:
            return self._items.get(key)

    def put(self, item: T) -> None:
        """Note an object.  Error: StateError, and then nothing has changed."""
        key = self._identify(item)
        with self._lock:
            before = self._items.get(key)
            if before != item:
                put_or_restore(self._notes, key, item, before)
                self._items[key] = item
            self._struck.discard(key)

    def strike(self, key: K) -> None:
        """Remove a note.  Idempotent.  Error: StateError, and then it is still noted."""
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
    """Implements services.ports.Networks: writes to `records`, reads from notes."""

    def __init__(self, records: Networks, notes: Notes[Network]) -> None:
        """Error: StateError."""
        self._records = records
        self._noted: Noted[NetworkId, Network] = Noted(
            notes, records.list, lambda network: network.id)

    def create(self, network_id: NetworkId, key: NetworkKey, *, subnets: tuple[str, ...],
               internal: bool, mtu: int, vip: bool = True,
               host_path: HostPath = HostPath.AUTO, names: bool = True) -> Network:
        """See ports.Networks.  Further error: StateError."""
        network = self._records.create(network_id, key, subnets=subnets, internal=internal,
                                       mtu=mtu, vip=vip, host_path=host_path, names=names)
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
        """See ports.Networks.  Further error: StateError."""
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
        """Note a network that is on record.  Error: StateError."""
        self._noted.put(network)


class NotedEndpoints:
    """Implements services.ports.Endpoints: writes to `records`, reads from notes."""

    def __init__(self, records: Endpoints, notes: Notes[Endpoint],
                 on_missing: Callable[[EndpointId], None] = lambda _id: None) -> None:
        """on_missing: told which endpoint etcd has lost, if that is found by chance.

        Error: StateError.
        """
        self._records = records
        self.on_missing = on_missing
        self._noted: Noted[EndpointId, Endpoint] = Noted(
            notes, records.list, lambda endpoint: endpoint.id)

    def create(self, endpoint: Endpoint) -> None:
        """See ports.Endpoints.  Further error: StateError."""
        self._records.create(endpoint)
        try:
            self._noted.put(endpoint)
        except StateError:
            with suppress(SlimError):
                self._records.delete(endpoint.id)
            raise

    def replace(self, endpoint: Endpoint) -> None:
        """See ports.Endpoints; an endpoint that etcd has lost is changed in the notes only.

        Further error: StateError.
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
        """See ports.Endpoints.  Further error: StateError."""
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
        """Note an endpoint that is on record.  Error: StateError."""
        self._noted.put(endpoint)
