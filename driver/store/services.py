"""Owns services in etcd: one manager's writing of them, and every host's feed.

It must not know Docker, nor what the listener does with a service.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from driver.errors import Conflict, UnsupportedRecord
from driver.model import HostId, NetworkId, Service
from driver.services.ports import ServiceListener
from driver.store import keys, records
from driver.store.feed import Feed, read_own
from driver.store.kv import Change, Delete, Entry, KeyValue, Lease, Op, Put, Unchanged

TTL_S = 6  # after which another manager takes over from one that is gone
RENEW_S = 2.0
OPS = 100  # of one transaction; etcd takes 128


class EtcdServiceFeed:
    """driver.services.ports.ServiceFeed over etcd, one watch a network.  Thread-safe."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv
        self._lock = threading.Lock()
        self._feeds: dict[NetworkId, Feed] = {}

    def follow(self, network_id: NetworkId, listener: ServiceListener) -> None:
        """See ports.ServiceFeed."""
        with self._lock:
            if network_id not in self._feeds:
                self._feeds[network_id] = Feed(
                    self._kv, keys.services(network_id), _Listener(network_id, listener),
                    f"slim-services-{network_id[:12]}")

    def unfollow(self, network_id: NetworkId) -> None:
        """See ports.ServiceFeed."""
        with self._lock:
            feed = self._feeds.pop(network_id, None)
        if feed is not None:
            feed.close()

    def close(self) -> None:
        """End all feeds; what was published stays."""
        for network_id in list(self._feeds):
            self.unfollow(network_id)


class EtcdServiceRecords:
    """driver.services.ports.ServiceRecords over etcd.  Used by one thread.

    kv: fenced, so that a write that was not answered cannot come after a later one.
    """

    def __init__(self, kv: KeyValue, host: HostId,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._kv = kv
        self._host = host
        self._clock = clock
        self._swarm_id = ""
        self._lease: Lease | None = None
        self._held: Unchanged | None = None  # the swarm's key, as this host wrote it
        self._renewed_s = 0.0
        self._known: dict[str, Service] | None = None  # by key, as in etcd; None: not read yet

    def lead(self, swarm_id: str) -> bool:
        """See ports.ServiceRecords."""
        if self._held is not None and self._swarm_id == swarm_id:
            if self._clock() - self._renewed_s < RENEW_S:
                return True
            if self._lease is not None and self._lease.keep_alive():
                self._renewed_s = self._clock()
                return True
        self.resign()  # another swarm's key, or a lease that has ended
        key = keys.publisher(swarm_id)
        before = self._kv.get(key)
        # Its own, of an earlier process or an unanswered write, it may take over at once.
        if before is not None and records.decode(before, records.publisher) != self._host:
            return False
        lease = self._kv.lease(TTL_S)
        value = records.encode({"host": self._host})
        held = Unchanged(key, before.mod_revision if before else 0)
        if not self._kv.commit([held], [Put(key, value, lease.id)]):
            lease.revoke()
            return False
        entry = self._kv.get(key)
        if entry is None or entry.value != value:
            return False
        self._swarm_id, self._lease = swarm_id, lease
        self._held, self._renewed_s = Unchanged(key, entry.mod_revision), self._clock()
        return True

    def resign(self) -> None:
        """See ports.ServiceRecords."""
        lease = self._lease
        self._forget()
        if lease is not None:
            lease.revoke()

    def publish(self, services: Collection[Service]) -> None:
        """See ports.ServiceRecords."""
        if self._held is None:
            raise Conflict("this host does not hold the swarm's key")
        if self._known is None:
            self._known = self._read()
        known = self._known
        wanted = {keys.service(each.network_id, each.address): each for each in services}
        ops: list[Op] = [
            Put(key, records.encode(records.service_fields(service, self._swarm_id)))
            for key, service in wanted.items() if known.get(key) != service]
        ops += [Delete(key) for key in known.keys() - wanted.keys()]
        for start in range(0, len(ops), OPS):
            self._known = None  # until it is known to be done
            if not self._kv.commit([self._held], ops[start:start + OPS]):
                self._forget()
                raise Conflict("its key is held by another host")
        self._known = wanted

    def _read(self) -> dict[str, Service]:
        """All services of this swarm; those of others are none of our business."""
        found = {}
        for entry in self._kv.range(keys.SERVICES).entries:
            with suppress(UnsupportedRecord):
                if records.decode(entry, records.swarm_of) == self._swarm_id:
                    found[entry.key] = records.decode(entry, records.service)
        return found

    def _forget(self) -> None:
        self._held = self._lease = self._known = None


class _Listener:
    def __init__(self, network_id: NetworkId, listener: ServiceListener) -> None:
        self._network_id = network_id
        self._listener = listener

    def listed(self, entries: Sequence[Entry]) -> None:
        self._listener.snapshot(self._network_id, [
            service for entry in entries if (service := self._read(entry)) is not None])

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            service = None if change.value is None else self._read(
                Entry(change.key, change.value, change.mod_revision))
            if service is not None:
                self._listener.put(service)
            else:
                with suppress(ValueError):  # a key that no driver writes never was anything
                    self._listener.removed(*keys.service_of(change.key))

    @staticmethod
    def _read(entry: Entry) -> Service | None:
        return read_own(entry, records.service,
                        lambda each: keys.service(each.network_id, each.address))
