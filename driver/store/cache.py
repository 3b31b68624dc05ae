"""Caches what this host keeps in etcd for itself, so that reads need no round trip.

This is sound because this host is the only writer of those keys.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from driver.errors import UnsupportedRecord
from driver.store.format import records
from driver.store.kv.protocol import KeyValue
from driver.work.logs import STANDING

K = TypeVar("K")
V = TypeVar("V")

log = logging.getLogger(__name__)


class LocalCache(Generic[K, V]):
    """The records under one prefix, by id.  Thread-safe; filled at the first read."""

    def __init__(self, kv: KeyValue, prefix: str, build: Callable[[records.Fields], V],
                 identify: Callable[[V], K]) -> None:
        self._kv = kv
        self._prefix = prefix
        self._build = build
        self._identify = identify
        self._lock = threading.Lock()
        self._items: dict[K, V] | None = None  # None: not read yet
        self._writes = 0

    def all(self) -> dict[K, V]:
        """Return everything.  Error: StoreUnavailable, only if it was never read before."""
        while True:
            with self._lock:
                if self._items is not None:
                    return dict(self._items)
                writes = self._writes
            # Not under the lock: without etcd the callers then wait in parallel, not one by one.
            items = self._read()
            with self._lock:
                if self._writes == writes:
                    self._items = items

    def put(self, item: V) -> None:
        """Add an item that has just been written."""
        with self._lock:
            self._writes += 1
            if self._items is not None:
                self._items[self._identify(item)] = item

    def remove(self, key: K) -> None:
        """Remove an item that has just been deleted."""
        with self._lock:
            self._writes += 1
            if self._items is not None:
                self._items.pop(key, None)

    def reread(self) -> dict[K, V]:
        """Read everything again, and return it.

        Error: StoreUnavailable; the cache then keeps what it had.
        """
        while True:
            with self._lock:
                writes = self._writes
            items = self._read()
            with self._lock:
                if self._writes == writes:
                    self._items = items
                    return dict(items)

    def _read(self) -> dict[K, V]:
        items: dict[K, V] = {}
        for entry in self._kv.range(self._prefix).entries:
            try:
                item = records.decode(entry, self._build)
            except UnsupportedRecord as error:
                log.error("%s", error, extra=STANDING)  # one bad record must not hide the others
                continue
            items[self._identify(item)] = item
        return items
