"""Defines what the store needs from etcd, as Protocols and values.

The etcd adapter and the tests' fake implement them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from driver.errors import SlimError, StoreUnavailable


class WatchLost(SlimError):
    """The stream of watches ended (connection, leader, silence): open another one."""


class OutcomeUnknown(StoreUnavailable):
    """A commit was sent and not answered: it may have happened, or may still happen, or not."""


class LeaseGone(StoreUnavailable):
    """A lease that a commit names has ended, or etcd has lost it: certainly nothing was written."""


@dataclass(frozen=True)
class Entry:
    """A key with its value; `mod_revision` is the revision of its last change, never 0."""

    key: str
    value: bytes
    mod_revision: int


@dataclass(frozen=True)
class Listing:
    """Entries in key order, all at one `revision` of the whole store."""

    entries: tuple[Entry, ...]
    revision: int
    more: bool = False  # the limit cut it off


@dataclass(frozen=True)
class Unchanged:
    """Holds if the key was last changed at `mod_revision`; 0: if the key is absent."""

    key: str
    mod_revision: int


@dataclass(frozen=True)
class Holds:
    """Holds if the key exists with exactly this value."""

    key: str
    value: bytes


@dataclass(frozen=True)
class Empty:
    """Holds if there is no key from `key` (included) up to `stop` (excluded)."""

    key: str
    stop: str


Compare = Unchanged | Holds | Empty


@dataclass(frozen=True)
class Put:
    """Write a value; with a lease, the key goes when the lease ends."""

    key: str
    value: bytes
    lease_id: int = 0


@dataclass(frozen=True)
class Delete:
    """Remove one key; an absent key is no error."""

    key: str


Op = Put | Delete


@dataclass(frozen=True)
class Change:
    """One event of a watch; `value` None: the key was removed."""

    key: str
    value: bytes | None
    mod_revision: int


@dataclass(frozen=True)
class Moment:
    """How far a store has come: its cluster id and a revision."""

    cluster: int
    revision: int


@dataclass(frozen=True)
class News:
    """What a stream reports of one of its watches, by the number that `Stream.watch` returned.

    `changes` are whole commits, in order.  `revision`: everything up to it has been reported,
    even if there are no changes; it never decreases.
    """

    watch: int
    revision: int = 0
    changes: Sequence[Change] = ()
    ended: str = ""  # why the watch ended; then there is no `revision`
    compacted: bool = False  # it ended because etcd has compacted its first revision


class Stream(Protocol):
    """Many watches on one connection.  One thread calls `next`; any thread may call the rest."""

    @property
    def opened(self) -> Moment:
        """Return where the serving member was at opening; it may lag behind other members."""

    def watch(self, prefix: str, from_revision: int, *, removals: bool = False) -> int:
        """Follow the changes under `prefix` from `from_revision` (included) on.  Never blocks.

        removals: report removals only.
        """

    def cancel(self, watch: int) -> None:
        """End one watch; news already under way may still arrive.  Never blocks."""

    def next(self) -> News | None:
        """Block until there is news; None after `close`.  Error: WatchLost, which closes it."""

    def heard_s(self) -> float:
        """Return when there was a sign of life last: seconds, monotonic; -inf: never."""

    def close(self) -> None:
        """End the stream with all its watches; `next` returns None."""


class Lease(Protocol):
    """A granted lease; its keys vanish if it is not kept alive within its TTL."""

    @property
    def id(self) -> int:
        """Return the id that `Put` takes."""

    def keep_alive(self) -> bool:
        """Restart the TTL; False if the lease is gone.  Error: StoreUnavailable."""

    def revoke(self) -> None:
        """End the lease and its keys; a lease that is gone is no error."""


class KeyValue(Protocol):
    """The part of etcd that is used.  Every call raises StoreUnavailable within its deadline."""

    def get(self, key: str) -> Entry | None:
        """Return the current entry (linearizable read), None if there is none."""

    def recall(self, key: str) -> Entry | None:
        """Return the entry as last read or written here, None if nothing is remembered.

        This asks nobody and may be out of date: a decision based on it must compare the entry in
        the commit that follows, and read again if that is refused.
        """

    def range(self, prefix: str, *, start: str = "", stop: str = "", limit: int = 0,
              keys_only: bool = False) -> Listing:
        """List the keys under `prefix`, from `start` (included) on, before `stop` if given.

        `start` and `stop` are whole keys.  `limit` 0: all of them.
        """

    def count(self, prefix: str, *, start: str = "", stop: str = "") -> int:
        """Return how many keys `range` would list."""

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        """Do all `ops` if all `compares` hold; return the revision this created, 0 if not done.

        The revision is the `mod_revision` of everything put.  At most 128 operations.
        Errors: OutcomeUnknown (sent, not answered), LeaseGone, StoreUnavailable (both certainly
        not done).
        """

    def lease(self, ttl_s: int) -> Lease:
        """Grant a lease that lasts `ttl_s` seconds from its last keep_alive."""


class LeasedKeyValue(KeyValue, Protocol):
    """Adds leases that outlive whoever granted them."""

    def keep_alive(self, lease_id: int) -> bool:
        """Restart that lease's TTL; False if the lease is gone."""

    def lease_left_s(self, lease_id: int) -> int:
        """Return how many seconds of the TTL are left; 0 or less: the lease is gone."""


class WatchedKeyValue(KeyValue, Protocol):
    """Adds streams of changes, and what is needed to resume them after a break."""

    def stream(self, key: str) -> Stream:
        """Open a stream.  `key`: the stream may probe for signs of life below it."""

    def now(self, key: str) -> Moment:
        """Return how far the store has come (linearizable).  `key`: any readable key."""

    def remembers(self, change: Change) -> bool:
        """Tell whether there was this change at its revision, as far as can be known.

        False: certainly not.  A store that has compacted the revision cannot tell.
        """

    def keeps(self, key: str, revision: int) -> bool:
        """Tell whether changes from `revision` on (not after now) are kept: not compacted."""


class WholeKeyValue(LeasedKeyValue, WatchedKeyValue, Protocol):
    """Everything that the driver asks of etcd."""


Read = Callable[[str], Entry | None]  # KeyValue.get, or a read that recalls what it can
