"""Keeps in etcd who watches, and the summaries of the watched, all under short leases.

Nothing here is read back after a failure: what is missing comes with the next summary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from driver.errors import UnsupportedRecord
from driver.model import HostId
from driver.services.ports import Summary, Told
from driver.store.format import keys, records, summaries
from driver.store.kv.protocol import Change, Entry, KeyValue, Lease, LeaseGone, Put

TTL_S: Final = 15  # of both leases: a host that is silent for this long neither watches nor tells
PAGE: Final = 16  # summaries in one answer of etcd: about a megabyte


class _Held:
    """A key of this host's under a lease, which is renewed when a third of it is over."""

    def __init__(self, kv: KeyValue, key: str, clock: Callable[[], float]) -> None:
        self._kv = kv
        self._key = key
        self._clock = clock
        self._lease: Lease | None = None
        self._renewed_s = 0.0

    def keep(self) -> bool:
        """Renew the lease if it is time; return whether there still is one."""
        if self._lease is None:
            return False
        if self._clock() - self._renewed_s >= TTL_S / 3:
            began_s = self._clock()
            if not self._lease.keep_alive():
                self._lease = None
                return False
            self._renewed_s = began_s
        return True

    def put(self, value: bytes) -> None:
        if not self.keep():
            began_s = self._clock()
            self._lease, self._renewed_s = self._kv.lease(TTL_S), began_s
        lease = self._lease
        assert lease is not None
        try:
            self._kv.commit([], [Put(self._key, value, lease.id)])
        except LeaseGone:
            self._lease = None
            raise

    def revoke(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.revoke()


class EtcdSummaries:
    """driver.services.ports.Summaries over etcd.  For one thread."""

    def __init__(self, kv: KeyValue, me: HostId, clock: Callable[[], float] = time.monotonic
                 ) -> None:
        """clock: seconds, monotonic."""
        self._kv = kv
        self._watching = _Held(kv, keys.watching(me), clock)
        self._summary = _Held(kv, keys.summary(me), clock)

    def watch(self, *, again: bool) -> None:
        """See ports.Summaries."""
        if not self._watching.keep() or again:
            self._watching.put(records.encode({}))

    def unwatch(self) -> None:
        """See ports.Summaries."""
        self._watching.revoke()

    def size_bytes(self, summary: Summary) -> int:
        """See ports.Summaries."""
        return len(summaries.encode(summary))

    def put(self, summary: Summary) -> None:
        """See ports.Summaries."""
        self._summary.put(summaries.encode(summary))

    def withdraw(self) -> None:
        """See ports.Summaries."""
        self._summary.revoke()

    def all(self, known: Mapping[HostId, int]) -> Mapping[HostId, Told]:
        """See ports.Summaries."""
        found: dict[HostId, Told] = {}
        start, more = "", True
        while more:
            page = self._kv.range(keys.SUMMARIES, start=start, limit=PAGE)
            for entry in page.entries:
                host = HostId(keys.last_of(entry.key))
                found[host] = (Told(entry.mod_revision, None)
                               if known.get(host) == entry.mod_revision else _read(host, entry))
                start = entry.key + "\0"
            more = page.more
        return found


def _read(host: HostId, entry: Entry) -> Told:
    try:
        summary = summaries.decode(entry)
        if summary.host != host:
            raise UnsupportedRecord(f"{entry.key} in etcd holds the summary of another host")
    except UnsupportedRecord as error:
        return Told(entry.mod_revision, None, str(error))
    return Told(entry.mod_revision, summary)


class WatcherListener:
    """A FeedListener of keys.WATCHERS: calls `listener` with all hosts that watch, at each change.

    That a key exists says it all: its value does not matter.
    """

    def __init__(self, listener: Callable[[Collection[HostId]], None]) -> None:
        self._listener = listener
        self._hosts: set[HostId] = set()

    def listed(self, entries: Sequence[Entry], revision: int) -> None:  # noqa: ARG002
        """See FeedListener."""
        self._hosts = {HostId(keys.last_of(entry.key)) for entry in entries}
        self._listener(frozenset(self._hosts))

    def changed(self, changes: Sequence[Change]) -> None:
        """See FeedListener."""
        for change in changes:
            host = HostId(keys.last_of(change.key))
            if change.value is None:
                self._hosts.discard(host)
            else:
                self._hosts.add(host)
        self._listener(frozenset(self._hosts))
