"""Owns what one feed is: its listener, where it stands, and reading what it brings.

It must not know how it is kept up to date (feeds.py), nor what keys mean (directory.py, hosts.py).
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
    """Called from one thread at a time.  After an exception everything is listed again."""

    def listed(self, entries: Sequence[Entry], revision: int) -> None:
        """This is all there is as of `revision` of the store.

        Comes first, and again where changes were missed, or where the store has gone back:
        then `revision` may be lower than before.
        """

    def changed(self, changes: Sequence[Change]) -> None:
        """These came since, in order."""


class Feed:
    """One prefix that is followed.  All but `close` is the business of feeds.py."""

    def __init__(self, prefix: str, listener: FeedListener, end: Callable[[Feed], None], *,
                 removals: bool = False) -> None:
        """removals: only these are told, and `listed` brings nothing: some may have been missed."""
        self._end = end
        self.prefix = prefix
        self.listener = listener
        self.removals = removals
        self.position = 0  # the revision up to which all changes have come; 0: to be listed
        self.begin = 0  # where it went on, until that is known to have been in time; 0: it was
        self.listed = False  # at least once
        self.watch = 0  # its number on the stream; 0: none
        self.waiting: list[Change] = []  # for the listener
        self.runner = 0  # the thread that is in the listener; 0: none
        self.failures = 0  # in a row
        self.closed = False

    def close(self) -> None:
        """Stop; the listener is not called any more (unless this comes from the listener)."""
        self._end(self)


def read_own(entry: Entry, build: Callable[[records.Fields], T], key_of: Callable[[T], str]
             ) -> T | None:
    """Decode what a feed has brought; None, with a line in the log, for what is not its key's."""
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


