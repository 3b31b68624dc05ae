"""Owns following a prefix in etcd for good: list, watch from there, and list again after trouble.

It must not know what the keys mean; directory.py and hosts.py do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from driver.errors import SlimError, UnsupportedRecord
from driver.store import records
from driver.store.kv import Change, Entry, KeyValue, Watch, WatchLost

RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)  # pauses after consecutive failures; the last one goes on

T = TypeVar("T")

log = logging.getLogger(__name__)


class FeedListener(Protocol):
    """Called from the feed's thread only."""

    def listed(self, entries: Sequence[Entry]) -> None:
        """This is all there is now."""

    def changed(self, changes: Sequence[Change]) -> None:
        """These came since, in order."""


def read_own(entry: Entry, build: Callable[[records.Fields], T], key_of: Callable[[T], str]
             ) -> T | None:
    """Decode what a feed has brought; None, with a line in the log, for what is not its key's."""
    try:
        found = records.decode(entry, build)
    except UnsupportedRecord as error:
        log.error("%s", error)
        return None
    if entry.key != key_of(found):
        log.error("%s in etcd holds the record of another key: left alone", entry.key)
        return None
    return found


class Feed:
    """A thread that keeps `listener` up to date until `close`."""

    def __init__(self, kv: KeyValue, prefix: str, listener: FeedListener, name: str) -> None:
        self._kv = kv
        self._prefix = prefix
        self._listener = listener
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; the listener is not called any more (unless this comes from the listener)."""
        self._stop.set()
        with self._lock:
            if self._watch is not None:
                self._watch.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (SlimError, WatchLost) as error:
                # One line at the start of an outage, not one a second.
                level = logging.WARNING if self._failures == 0 else logging.DEBUG
                log.log(level, "%s: listing again: %s", self._prefix, error)
            except Exception:
                log.exception("%s: the listener failed; listing again", self._prefix)
            pause_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
            self._failures += 1
            self._stop.wait(pause_s)

    def _follow(self) -> None:
        listing = self._kv.range(self._prefix)
        if self._stop.is_set():
            return
        self._listener.listed(listing.entries)
        watch = self._kv.watch(self._prefix, listing.revision + 1)
        with self._lock:
            self._watch = watch
        try:
            self._failures = 0
            while not self._stop.is_set():
                changes = watch.next()
                if changes is None or self._stop.is_set():
                    return
                self._listener.changed(changes)
        finally:
            watch.close()
