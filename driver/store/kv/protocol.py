"""Owns what the store needs from etcd, as a Protocol: the adapter and the tests' fake implement it.

It must not know which keys there are, nor what the values mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from driver.errors import SlimError, StoreUnavailable


class WatchLost(SlimError):
    """The stream of watches ended (connection, leader, silence): open another one."""


class OutcomeUnknown(StoreUnavailable):
    """A commit was sent and not answered: it may or may not have happened, or happen yet."""


class LeaseGone(StoreUnavailable):
    """A lease that a commit names has ended, or etcd has lost it: certainly nothing was done."""


@dataclass(frozen=True)
class Entry:
    """A key with its value; `mod_revision` is that of its last change, never 0."""

    key: str
    value: bytes
    mod_revision: int


@dataclass(frozen=True)
class Listing:
    """Entries in the order of their keys, all as of one `revision` of the whole store."""

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
    """Holds if there is no key from `key` on (included) and before `stop`."""

    key: str
    stop: str


Compare = Unchanged | Holds | Empty


@dataclass(frozen=True)
class Put:
    """Write a value; with a lease the key goes when the lease does."""

    key: str
    value: bytes
    lease_id: int = 0


@dataclass(frozen=True)
class Delete:
    """Remove one key; an absent one is fine."""

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
    """How far a store had come: the id of its cluster, and a revision."""

    cluster: int
    revision: int


@dataclass(frozen=True)
class News:
    """What a stream tells of one of its watches, by the number that `Stream.watch` gave it.

    `changes` are whole commits, in order.  `revision`: all up to it has been told (never less
    than before), also where there are no changes.
    """

    watch: int
    revision: int = 0
    changes: Sequence[Change] = ()
    ended: str = ""  # why the watch is over; it has no `revision` then
    compacted: bool = False  # it ended because etcd no longer has what it was to begin with


class Stream(Protocol):
    """Many watches on one connection.  `next` is for one thread, the rest for any."""

    @property
    def opened(self) -> Moment:
        """Where the member that serves it was when it was opened; it may lag behind others."""

    def watch(self, prefix: str, from_revision: int, *, removals: bool = False) -> int:
        """Follow the changes under `prefix` from `from_revision` on (included).  Never blocks.

        removals: no others are told.
        """

    def cancel(self, watch: int) -> None:
        """End one watch; what was on its way may still come.  Never blocks."""

    def next(self) -> News | None:
        """Block until there is news; None after `close`.  Error: WatchLost, and it is closed."""

    def close(self) -> None:
        """End the stream with all its watches; `next` returns None."""


class Lease(Protocol):
    """A granted lease; keys put under it vanish when it is not kept alive for its TTL."""

    @property
    def id(self) -> int:
        """What `Put` names it by."""

    def keep_alive(self) -> bool:
        """Start the TTL anew; False if the lease is gone.  Error: StoreUnavailable."""

    def revoke(self) -> None:
        """End the lease and its keys; a lease that is gone is fine."""


class KeyValue(Protocol):
    """etcd, as far as it is used.  Every call raises StoreUnavailable within its deadline."""

    def get(self, key: str) -> Entry | None:
        """Return the entry as of now (linearizable), None if there is none."""

    def recall(self, key: str) -> Entry | None:
        """Return the entry as it was last read or written here, None if nothing is remembered.

        It asks nobody and may be out of date: what is decided by it must be compared in the
        commit that follows, and read again if that is refused.
        """

    def range(self, prefix: str, *, start: str = "", stop: str = "", limit: int = 0,
              keys_only: bool = False) -> Listing:
        """Keys under `prefix`, from `start` on (included), before `stop` if given.

        `start` and `stop` are whole keys.  `limit` 0: all of them.
        """

    def count(self, prefix: str, *, start: str = "", stop: str = "") -> int:
        """Return how many keys `range` would list."""

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        """Do all of `ops` if all of `compares` hold; return the revision that this made, 0 if not.

        It is the `mod_revision` of all that was put.  At most 128 operations.
        Errors: OutcomeUnknown (sent, not answered), LeaseGone, StoreUnavailable (both certainly
        not done).
        """

    def lease(self, ttl_s: int) -> Lease:
        """Grant a lease that lasts `ttl_s` seconds from its last keep_alive."""


class LeasedKeyValue(KeyValue, Protocol):
    """With leases that outlive whoever granted them."""

    def keep_alive(self, lease_id: int) -> bool:
        """Start that lease's TTL anew; False if it is gone."""

    def lease_left_s(self, lease_id: int) -> int:
        """Return how many seconds of its TTL are left, 0 or less: it is gone."""


class WatchedKeyValue(KeyValue, Protocol):
    """With streams of changes, and what it takes to go on with them after a break."""

    def stream(self, key: str) -> Stream:
        """Open a stream.  `key`: below it the stream may ask for signs of life."""

    def now(self, key: str) -> Moment:
        """Return how far the store is (linearizable).  `key`: any that may be read."""

    def remembers(self, change: Change) -> bool:
        """Whether there was this change at its revision, as far as can be told.

        False: certainly not.  A store that has been compacted since cannot tell.
        """

    def keeps(self, key: str, revision: int) -> bool:
        """Whether changes from `revision` on, not after now, can still be told: not compacted."""


class WholeKeyValue(LeasedKeyValue, WatchedKeyValue, Protocol):
    """All that etcd is asked for."""


Read = Callable[[str], Entry | None]  # KeyValue.get, or one that recalls what it can


def recalling(kv: KeyValue) -> Read:
    """Return a `get` that asks etcd only for what is not remembered (see KeyValue.recall)."""
    return lambda key: kv.recall(key) or kv.get(key)


def prefix_end(prefix: str) -> bytes:
    """Return the first key after all keys with `prefix` (which must not be empty)."""
    # Keys are ASCII (keys.py quotes the rest), so the last byte can always be raised.
    raw = prefix.encode()
    return raw[:-1] + bytes((raw[-1] + 1,))


@dataclass
class Transaction:
    """One commit in the making: what must still be as it was read, and what to do then."""

    compares: list[Compare] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)

    def as_read(self, key: str, entry: Entry | None) -> None:
        """Only if the key is still as in `entry` (None: absent)."""
        self.unchanged(key, entry.mod_revision if entry else 0)

    def unchanged(self, key: str, mod_revision: int) -> None:
        """Only if the key was last changed then (0: is absent)."""
        self.compares.append(Unchanged(key, mod_revision))

    def empty(self, prefix: str, but: str) -> None:
        """Only if there is no key under `prefix` but this one."""
        self.compares.append(Empty(prefix, but))
        self.compares.append(Empty(but + "\0", prefix_end(prefix).decode()))

    def put(self, key: str, value: bytes) -> None:
        """Write a value."""
        self.ops.append(Put(key, value))

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.ops.append(Delete(key))

    def commit(self, kv: KeyValue) -> bool:
        """Return whether it was done; False: something changed, read again.

        If the outcome is unknown, read back and compare: it is told apart by the first
        operation, a put whose value nobody else writes (records carry a random `write` id)
        or a delete.  If the effect is not there, the very same transaction is tried once
        more; that is safe, because each compares a key that it changes: it cannot happen
        twice.  Errors: OutcomeUnknown (it might still come), StoreUnavailable.
        """
        try:
            return bool(kv.commit(self.compares, self.ops))
        except OutcomeUnknown as unknown:
            try:
                return (self._done(kv) or bool(kv.commit(self.compares, self.ops))
                        or self._done(kv))
            except StoreUnavailable:
                raise unknown from None

    def _done(self, kv: KeyValue) -> bool:
        first = self.ops[0]
        found = kv.get(first.key)
        if isinstance(first, Put):
            return found is not None and found.value == first.value
        return found is None
