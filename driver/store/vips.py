"""Writes a swarm's vips to etcd, on one manager, and feeds them to listeners on every host.

The manager that holds the swarm's key, under a lease, publishes them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address

from driver.errors import Conflict, UnsupportedRecord
from driver.model import HostId, NetworkId, Vip
from driver.services.ports import (
    VipLeft,
    VipListener,
    VipSaid,
    VipUnreadable,
)
from driver.store.answers import asked_revision
from driver.store.feeds.feed import Feed, read_own
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys, records
from driver.store.kv.protocol import Change, Entry, KeyValue, Lease, LeaseGone, Op, Put, Unchanged
from driver.store.tombstones import Tombstones
from driver.work.logs import STANDING

TTL_S = 6  # seconds until another manager takes over from one that has stopped
RENEW_S = 2.0
COMPARE_S = 5.0  # between checks that the published records are still there
OPS = 100  # per transaction; etcd takes 128

log = logging.getLogger(__name__)


class EtcdVipFeed:
    """driver.services.ports.VipFeed over etcd, one prefix per network.  Thread-safe."""

    def __init__(self, feeds: Feeds, kv: KeyValue) -> None:
        self._feeds = feeds
        self._kv = kv
        self._lock = threading.Lock()
        self._followed: dict[NetworkId, Feed] = {}

    def follow(self, network_id: NetworkId, listener: VipListener) -> None:
        """See ports.VipFeed."""
        with self._lock:
            if network_id not in self._followed:
                self._followed[network_id] = self._feeds.follow(
                    keys.services(network_id), _Listener(network_id, listener))

    def unfollow(self, network_id: NetworkId) -> None:
        """See ports.VipFeed."""
        with self._lock:
            feed = self._followed.pop(network_id, None)
        if feed is not None:
            feed.close()

    def read(self, network_id: NetworkId) -> Iterable[VipSaid]:
        """See ports.VipFeed."""
        return _said(self._kv.range(keys.services(network_id)).entries)

    def close(self) -> None:
        """End all feeds; what was published stays."""
        for network_id in list(self._followed):
            self.unfollow(network_id)


class EtcdVipRecords:
    """driver.services.ports.VipRecords over etcd.  Used by one thread.

    kv: fenced, so that an unanswered write cannot take effect after a later one.
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
        self._known: dict[str, Vip] | None = None  # by key, as in etcd; None: not read yet
        self._compared_s = 0.0  # when it was read
        self._compared = 0  # revision of that read, and of the last one that found all
        self._complete = 0
        self._asked = self._said = 0  # revisions: to be answered, and last answered
        self._tombstones = Tombstones(kv, clock)

    def lead(self, swarm_id: str) -> bool:
        """See ports.VipRecords."""
        if self._held is not None and self._swarm_id == swarm_id:
            if self._clock() - self._renewed_s < RENEW_S:
                return True
            if self._lease is not None and self._lease.keep_alive():
                self._renewed_s = self._clock()
                return True
        self.resign()  # it holds another swarm's key, or its lease has ended
        key = keys.publisher(swarm_id)
        before = self._kv.get(key)
        # It may immediately take over its own key, left by an earlier process or unanswered write.
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
        """See ports.VipRecords."""
        lease = self._lease
        self._forget()
        if lease is not None:
            lease.revoke()

    def publish(self, services: Collection[Vip]) -> bool:
        """See ports.VipRecords."""
        if self._held is None:
            raise Conflict("this host does not hold the swarm's key")
        expected = self._known or {}
        if self._known is None or self._clock() - self._compared_s >= COMPARE_S:
            self._known = self._read()
        known = self._known
        wanted = {keys.service(each.network_id, each.address): each for each in services}
        if wanted.keys() <= known.keys():
            self._complete = max(self._complete, self._compared)
        ops: list[Op] = [
            Put(key, records.encode(records.service_fields(service, self._swarm_id)))
            for key, service in wanted.items() if known.get(key) != service]
        ops += [self._tombstones.put(key, records.encode(records.service_left_fields(known[key])))
                for key in known.keys() - wanted.keys()]
        for start in range(0, len(ops), OPS):
            self._commit(ops[start:start + OPS])
        self._known = wanted
        if self._complete >= self._asked > self._said:
            self._say()
        return not expected.keys() <= known.keys()

    def _commit(self, ops: list[Op]) -> int:
        self._known = None  # until the commit is known to have succeeded
        assert self._held is not None
        try:
            revision = self._kv.commit([self._held], ops)
        except LeaseGone:
            self._tombstones.forget()
            raise
        if not revision:
            self._forget()
            raise Conflict("its key is held by another host")
        return revision

    def _say(self) -> None:
        """Answer whoever misses a vip."""
        assert self._held is not None
        assert self._lease is not None
        said, known = self._complete, self._known
        revision = self._commit([Put(self._held.key, records.encode(
            {"host": self._host, **records.revision_fields(said)}), self._lease.id)])
        self._held, self._known, self._said = Unchanged(self._held.key, revision), known, said

    def _read(self) -> dict[str, Vip]:
        """Return all vips of this swarm, and none of other swarms."""
        self._asked = asked_revision(self._kv.get(keys.SERVICES_QUESTION))
        listing = self._kv.range(keys.SERVICES)
        self._compared_s, self._compared = self._clock(), listing.revision
        found = {}
        for entry in listing.entries:
            with suppress(UnsupportedRecord):
                if records.decode(entry, records.swarm_of) == self._swarm_id:
                    found[entry.key] = records.decode(entry, records.service)
        return found

    def _forget(self) -> None:
        self._held = self._lease = self._known = None
        self._complete = self._said = 0


class _Listener:
    def __init__(self, network_id: NetworkId, listener: VipListener) -> None:
        self._network_id = network_id
        self._listener = listener

    def listed(self, entries: Sequence[Entry], revision: int) -> None:
        self._listener.snapshot(self._network_id, _said(entries), revision)

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.value is None:
                with suppress(ValueError):  # no driver writes such a key: nothing is missing
                    self._listener.missing(*keys.service_of(change.key), change.mod_revision)
                continue
            for said in _said([Entry(change.key, change.value, change.mod_revision)]):
                if isinstance(said, Vip):
                    self._listener.put(said)
                elif isinstance(said, VipLeft):
                    self._listener.left(self._network_id, said.address)
                else:
                    self._listener.unreadable(self._network_id, said.address)


def _said(entries: Iterable[Entry]) -> Iterator[VipSaid]:
    for entry in entries:
        try:
            address = keys.service_of(entry.key)[1]
        except ValueError:
            log.error("%s in etcd is no key of slim's: left alone", entry.key,
                      extra=STANDING)
            continue
        found = read_own(entry, _build, _key_of)
        if isinstance(found, Vip):
            yield found
        else:
            yield VipUnreadable(address) if found is None else VipLeft(address)


def _build(fields: records.Fields) -> Vip | tuple[NetworkId, IPv4Address]:
    return (records.service_left(fields) if records.has_left(fields)
            else records.service(fields))


def _key_of(found: Vip | tuple[NetworkId, IPv4Address]) -> str:
    name = (found.network_id, found.address) if isinstance(found, Vip) else found
    return keys.service(*name)
