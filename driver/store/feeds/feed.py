"""Holds one feed: its listener and its position; decodes what it brings.

feeds.py keeps it up to date; directory.py and hosts/registry.py interpret the keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from driver.errors import UnsupportedRecord
from driver.store.format import records
from driver.store.kv.protocol import Change, Entry
from driver.work.logs import STANDING

T = TypeVar("T")

log = logging.getLogger(__name__)


class FeedListener(Protocol):
    """Called from one thread at a time.  After an exception the feed lists everything again."""

    def listed(self, entries: Sequence[Entry], revision: int) -> None:
        """Take all entries that exist at `revision` of the store.

        Called first, and again after missed changes or when the store has gone back: `revision`
        may then be lower than before.
        """

    def changed(self, changes: Sequence[Change]) -> None:
        """Take the changes since the last call, in order."""


class Feed:
    """One followed prefix.  Only `close` is for users; the rest belongs to feeds.py."""

    def __init__(self, prefix: str, listener: FeedListener, end: Callable[[Feed], None], *,
                 removals: bool = False) -> None:
        """removals: report only these; `listed` has no entries then: some may have been missed."""
        self._end = end
        self.prefix = prefix
        self.listener = listener
        self.removals = removals
        self.position = 0  # the revision up to which all changes have arrived; 0: to be listed
        self.begin = 0  # where it resumed, until that is known to have been in time; 0: it was
        self.listed = False  # at least once
        self.watch = 0  # its number on the stream; 0: none
        self.waiting: list[Change] = []  # changes for the listener
        self.runner = 0  # the thread that runs the listener; 0: none
        self.failures = 0  # in a row
        self.closed = False

    def close(self) -> None:
        """Stop; the listener is not called again (unless the listener itself calls this)."""
        self._end(self)


def read_own(entry: Entry, build: Callable[[records.Fields], T], key_of: Callable[[T], str]
             ) -> T | None:
    """Decode an entry of a feed; None, and a line in the log, if the value does not fit its key."""
    try:
        found = records.decode(entry, build)
    except UnsupportedRecord as error:
        log.error("%s", error, extra=STANDING)
        return None
    if entry.key != key_of(found):
        log.error("%s in etcd holds the record of another key: left alone", entry.key,
                  extra=STANDING)
        return None
    return found


