"""Follows a network's endpoints in etcd, one prefix per network, and passes them to a listener.

Endpoint records are decoded one by one, to save memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from driver.model import Endpoint, Vni
from driver.services.ports import DirectoryListener, Left, Said, Unreadable
from driver.store.feeds.feed import Feed, read_own
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys, records
from driver.store.kv.protocol import Change, Entry, KeyValue
from driver.work.logs import STANDING

log = logging.getLogger(__name__)


class EtcdDirectory:
    """driver.services.ports.Directory over etcd.  Thread-safe."""

    def __init__(self, feeds: Feeds, kv: KeyValue) -> None:
        self._feeds = feeds
        self._kv = kv
        self._lock = threading.Lock()
        self._followed: dict[Vni, tuple[Feed, DirectoryListener]] = {}

    def follow(self, vni: Vni, listener: DirectoryListener) -> None:
        """See ports.Directory."""
        with self._lock:
            if vni not in self._followed:
                feed = self._feeds.follow(keys.endpoints(vni), _NetworkListener(vni, listener))
                self._followed[vni] = (feed, listener)

    def unfollow(self, vni: Vni) -> None:
        """See ports.Directory."""
        with self._lock:
            followed = self._followed.pop(vni, None)
        if followed is not None:
            feed, listener = followed
            feed.close()
            listener.unfollowed(vni)

    def read(self, vni: Vni) -> Iterable[Said]:
        """See ports.Directory.  Decodes each record as the caller iterates."""
        return _said(self._kv.range(keys.endpoints(vni)).entries)

    def close(self) -> None:
        """End all feeds; what was published stays, so that a restart cuts no connection."""
        with self._lock:
            feeds = [feed for feed, _ in self._followed.values()]
            self._followed.clear()
        for feed in feeds:
            feed.close()


class _NetworkListener:
    def __init__(self, vni: Vni, listener: DirectoryListener) -> None:
        self._vni = vni
        self._listener = listener

    def listed(self, entries: Sequence[Entry], revision: int) -> None:
        # Decoded one by one: tens of thousands together would take a hundred megabytes.
        self._listener.snapshot(self._vni, _said(entries), revision)

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.value is None:
                with suppress(ValueError):  # no driver writes such a key: nothing is missing
                    self._listener.missing(self._vni, keys.endpoint_of(change.key)[1],
                                           change.mod_revision)
                continue
            for said in _said([Entry(change.key, change.value, change.mod_revision)]):
                if isinstance(said, Endpoint):
                    self._listener.put(said)
                elif isinstance(said, Left):
                    self._listener.left(self._vni, said.endpoint)
                else:
                    self._listener.unreadable(self._vni, said.endpoint_id)


def _said(entries: Iterable[Entry]) -> Iterator[Said]:
    for entry in entries:
        try:
            endpoint_id = keys.endpoint_of(entry.key)[1]
        except ValueError:
            log.error("%s in etcd is no key of slim's: left alone", entry.key,
                      extra=STANDING)
            continue
        # The key names the endpoint, even if the value names none or another one.
        found = read_own(entry, _build, _key_of)
        yield Unreadable(endpoint_id) if found is None else found


def _build(fields: records.Fields) -> Endpoint | Left:
    return (Left(records.left(fields)) if records.has_left(fields)
            else records.endpoint(fields))


def _key_of(said: Endpoint | Left) -> str:
    endpoint = said.endpoint if isinstance(said, Left) else said
    return keys.endpoint(endpoint.vni, endpoint.id)
