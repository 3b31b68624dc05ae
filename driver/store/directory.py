"""Owns the feed of a network's endpoints from etcd, one watch a network.

It must not know what the listener does with them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress

from driver.model import Endpoint, Vni
from driver.services.ports import DirectoryListener
from driver.store import keys, records
from driver.store.feed import Feed, read_own
from driver.store.kv import Change, Entry, KeyValue


class EtcdDirectory:
    """driver.services.ports.Directory over etcd.  Thread-safe."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv
        self._lock = threading.Lock()
        self._feeds: dict[Vni, tuple[Feed, DirectoryListener]] = {}

    def follow(self, vni: Vni, listener: DirectoryListener) -> None:
        """See ports.Directory."""
        with self._lock:
            if vni not in self._feeds:
                feed = Feed(self._kv, keys.endpoints(vni), _NetworkListener(vni, listener),
                            f"slim-directory-{vni}")
                self._feeds[vni] = (feed, listener)

    def unfollow(self, vni: Vni) -> None:
        """See ports.Directory.  Ends with an empty snapshot: nothing of it is wanted any more."""
        with self._lock:
            followed = self._feeds.pop(vni, None)
        if followed is not None:
            feed, listener = followed
            feed.close()
            listener.snapshot(vni, ())

    def close(self) -> None:
        """End all feeds; what was published stays (a restart must not cut anything)."""
        with self._lock:
            feeds = [feed for feed, _ in self._feeds.values()]
            self._feeds.clear()
        for feed in feeds:
            feed.close()


class _NetworkListener:
    def __init__(self, vni: Vni, listener: DirectoryListener) -> None:
        self._vni = vni
        self._listener = listener

    def listed(self, entries: Sequence[Entry]) -> None:
        # Decoded one by one: tens of thousands at once would be a hundred megabytes.
        self._listener.snapshot(self._vni, (
            endpoint for entry in entries if (endpoint := self._read(entry)) is not None))

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            endpoint = None if change.value is None else self._read(
                Entry(change.key, change.value, change.mod_revision))
            if endpoint is not None:
                self._listener.put(endpoint)
            else:
                # A record that became unreadable is gone as far as this driver can tell; a key
                # that no driver writes never was anything.
                with suppress(ValueError):
                    self._listener.removed(self._vni, keys.endpoint_of(change.key)[1])

    @staticmethod
    def _read(entry: Entry) -> Endpoint | None:
        return read_own(entry, records.endpoint, lambda each: keys.endpoint(each.vni, each.id))
