"""Fakes etcd in memory, as a KeyValue of store/kv, and wraps a KeyValue to inject faults.

tests/contract/kv/test_kv.py holds the fake to the behaviour of the real one.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from driver.errors import StoreUnavailable
from driver.store.kv.delegate import DelegatingKeyValue
from driver.store.kv.protocol import (
    Change,
    Compare,
    Empty,
    Entry,
    KeyValue,
    Lease,
    LeaseGone,
    Listing,
    Moment,
    News,
    Op,
    OutcomeUnknown,
    Put,
    Stream,
    Unchanged,
    WatchLost,
)

T = TypeVar("T")
Saved = tuple[int, dict[str, tuple[Entry, int]], list[tuple[int, Change]]]


class FakeStore:
    """The server's state, which several FakeKeyValue can share."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.revision = 1
        self.compacted = 0
        self.entries: dict[str, tuple[Entry, int]] = {}  # with the lease's id
        self.history: list[tuple[int, Change]] = []
        self.last_put: dict[str, Entry] = {}
        self.previous: dict[str, Entry] = {}  # each key's value before its last put
        self.leases: dict[int, tuple[int, float]] = {}  # id -> ttl, end
        self.lease_ids = itertools.count(1)
        self.away = False  # nothing answers
        self.cluster = 1
        self.epoch = 0  # raised by `break_streams`
        self.progress = 0  # raised by `tell_progress`
        self.streams = 0  # opened so far
        self.connected: set[FakeStream] = set()

    def break_streams(self) -> None:
        with self.changed:
            self.epoch += 1
            self.changed.notify_all()

    def tell_progress(self) -> None:
        """Have each stream report the progress of each of its watches."""
        with self.changed:
            self.progress += 1
            self.changed.notify_all()

    def snapshot(self) -> Saved:
        with self.changed:
            return self.revision, dict(self.entries), list(self.history)

    def restore(self, saved: Saved) -> None:
        """Go back to a snapshot, and end all connections."""
        with self.changed:
            self.revision, entries, history = saved
            self.entries, self.history = dict(entries), list(history)
            self.break_streams()

    def noticed(self) -> bool:
        """Whether all clients whose streams were broken have seen that."""
        with self.changed:
            return all(stream.epoch == self.epoch for stream in self.connected)

    def expire(self) -> None:
        """Remove the keys of leases that ran out; the caller holds the lock."""
        now_s = time.monotonic()
        for lease_id in [i for i, (_, end_s) in self.leases.items() if end_s <= now_s]:
            self.end_lease(lease_id)

    def end_lease(self, lease_id: int) -> None:
        self.leases.pop(lease_id, None)
        keys = [key for key, (_, lease) in self.entries.items() if lease == lease_id]
        if keys:
            self.revision += 1
        for key in keys:
            self.remove(key)
        self.changed.notify_all()

    def put(self, entry: Entry, lease_id: int) -> None:
        if last := self.last_put.get(entry.key):
            self.previous[entry.key] = last
        self.last_put[entry.key] = entry
        self.entries[entry.key] = (entry, lease_id)

    def remove(self, key: str) -> None:
        if self.entries.pop(key, None) is not None:
            self.history.append((self.revision, Change(key, None, self.revision)))


class FakeKeyValue:
    def __init__(self, store: FakeStore | None = None) -> None:
        self.store = store or FakeStore()

    def _open(self) -> FakeStore:
        if self.store.away:
            raise StoreUnavailable("etcd is away (fake)")
        self.store.expire()
        return self.store

    def get(self, key: str) -> Entry | None:
        with self.store.changed:
            found = self._open().entries.get(key)
            return found[0] if found else None

    def recall(self, key: str) -> Entry | None:
        """Return the entry before its last change: a caller that trusts it without asking errs."""
        with self.store.changed:
            return self.store.previous.get(key)

    def range(self, prefix: str, *, start: str = "", stop: str = "", limit: int = 0,
              keys_only: bool = False) -> Listing:
        with self.store.changed:
            store = self._open()
            entries = [entry for key, (entry, _) in sorted(store.entries.items())
                       if key.startswith(prefix) and key >= start and (not stop or key < stop)]
            more = bool(limit) and len(entries) > limit
            if limit:
                entries = entries[:limit]
            if keys_only:
                entries = [Entry(e.key, b"", e.mod_revision) for e in entries]
            return Listing(tuple(entries), store.revision, more)

    def count(self, prefix: str, *, start: str = "", stop: str = "") -> int:
        return len(self.range(prefix, start=start, stop=stop).entries)

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        with self.store.changed:
            store = self._open()
            assert len(ops) <= 128, "etcd's --max-txn-ops"
            assert len({op.key for op in ops}) == len(ops), "etcd refuses a key twice"
            for compare in compares:
                if isinstance(compare, Empty):
                    if any(compare.key <= key < compare.stop for key in store.entries):
                        return 0
                    continue
                found = store.entries.get(compare.key)
                if isinstance(compare, Unchanged):
                    if (found[0].mod_revision if found else 0) != compare.mod_revision:
                        return 0
                elif found is None or found[0].value != compare.value:
                    return 0
            for op in ops:
                if isinstance(op, Put) and op.lease_id and op.lease_id not in store.leases:
                    raise LeaseGone("no such lease (fake)")
            if any(isinstance(op, Put) or op.key in store.entries for op in ops):
                store.revision += 1
            for op in ops:
                if isinstance(op, Put):
                    store.put(Entry(op.key, op.value, store.revision), op.lease_id)
                    store.history.append(
                        (store.revision, Change(op.key, op.value, store.revision)))
                else:
                    store.remove(op.key)
            store.changed.notify_all()
            return store.revision

    def stream(self, key: str) -> Stream:
        with self.store.changed:
            store = self._open()
            store.streams += 1
            return FakeStream(store)

    def now(self, key: str) -> Moment:
        with self.store.changed:
            store = self._open()
            return Moment(store.cluster, store.revision)

    def remembers(self, change: Change) -> bool:
        with self.store.changed:
            store = self._open()
            if change.mod_revision > store.revision:
                return False
            entry, _ = store.entries.get(change.key, (None, 0))
            if entry is not None and entry.mod_revision <= change.mod_revision:
                return Change(entry.key, entry.value, entry.mod_revision) == change
            return (change.mod_revision < store.compacted
                    or (change.mod_revision, change) in store.history)

    def keeps(self, key: str, revision: int) -> bool:
        with self.store.changed:
            store = self._open()
            assert revision <= store.revision
            return revision >= store.compacted

    def lease(self, ttl_s: int) -> Lease:
        with self.store.changed:
            store = self._open()
            lease_id = next(store.lease_ids)
            store.leases[lease_id] = (ttl_s, time.monotonic() + ttl_s)
            return FakeLease(self, lease_id)

    def keep_alive(self, lease_id: int) -> bool:
        return FakeLease(self, lease_id).keep_alive()

    def lease_left_s(self, lease_id: int) -> int:
        with self.store.changed:
            found = self._open().leases.get(lease_id)
            return -1 if found is None else int(found[1] - time.monotonic()) + 1

    def compact(self, revision: int) -> None:
        with self.store.changed:
            store = self._open()
            store.compacted = revision
            store.history = [(r, change) for r, change in store.history if r >= revision]


class FakeLease:
    def __init__(self, kv: FakeKeyValue, lease_id: int) -> None:
        self._kv = kv
        self.id = lease_id

    def keep_alive(self) -> bool:
        with self._kv.store.changed:
            store = self._kv._open()
            if self.id not in store.leases:
                return False
            ttl_s = store.leases[self.id][0]
            store.leases[self.id] = (ttl_s, time.monotonic() + ttl_s)
            return True

    def revoke(self) -> None:
        with self._kv.store.changed:
            self._kv._open().end_lease(self.id)


class FakeStream:
    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.epoch = store.epoch
        store.connected.add(self)
        self._watches: dict[int, tuple[str, int, bool]] = {}  # prefix, next revision, removals
        self._numbers = itertools.count(1)
        self._progress = store.progress
        self._untold: set[int] = set()  # watches that have to report their progress
        self.closed = False
        self.tells_compaction = True
        self.opened = Moment(store.cluster, store.revision)

    def watch(self, prefix: str, from_revision: int, *, removals: bool = False) -> int:
        with self._store.changed:
            number = next(self._numbers)
            self._watches[number] = (prefix, from_revision, removals)
            self._store.changed.notify_all()
            return number

    def cancel(self, watch: int) -> None:
        with self._store.changed:
            self._watches.pop(watch, None)

    def next(self) -> News | None:
        store = self._store
        with store.changed:
            while not self.closed:
                store.expire()
                if self.epoch != store.epoch:
                    self.closed = True
                    store.connected.discard(self)
                    raise WatchLost("broken by the test")
                if self._progress != store.progress:
                    self._progress, self._untold = store.progress, set(self._watches)
                for number in self._watches:
                    if news := self._news(number):
                        return news
                ends = [end_s for _, end_s in store.leases.values()]
                store.changed.wait(
                    max(0.0, min(ends) - time.monotonic()) + 0.001 if ends else None)
            return None

    def heard_s(self) -> float:
        return time.monotonic() if self.epoch == self._store.epoch else float("-inf")

    def _news(self, number: int) -> News | None:
        store, (prefix, begin, removals) = self._store, self._watches[number]
        if begin < store.compacted and self.tells_compaction:
            del self._watches[number]
            return News(number, ended="compacted", compacted=True)
        end = max(begin, store.revision + 1)
        self._watches[number] = (prefix, end, removals)
        changes = [change for revision, change in store.history
                   if revision >= begin and change.key.startswith(prefix)
                   and not (removals and change.value is not None)] if begin < end else []
        if changes:
            return News(number, changes[-1].mod_revision, changes)
        if number in self._untold:
            self._untold.remove(number)
            return News(number, end - 1)
        return None

    def close(self) -> None:
        with self._store.changed:
            self.closed = True
            self._store.connected.discard(self)
            self._store.changed.notify_all()


class FaultyKeyValue:
    """Passes calls on, and fails those that `fails(number)` selects.

    `fails` gets the call's number, from 1.  It returns "" to let the call pass, or "before" or
    "after" to fail it before or after its effect.
    """

    def __init__(self, kv: KeyValue, fails: Callable[[int], str]) -> None:
        self._kv = kv
        self.fails = fails
        self.calls = 0

    def get(self, key: str) -> Entry | None:
        return self._read(lambda: self._kv.get(key))

    def recall(self, key: str) -> Entry | None:
        return self._kv.recall(key)

    def range(self, prefix: str, *, start: str = "", stop: str = "", limit: int = 0,
              keys_only: bool = False) -> Listing:
        return self._read(lambda: self._kv.range(
            prefix, start=start, stop=stop, limit=limit, keys_only=keys_only))

    def count(self, prefix: str, *, start: str = "", stop: str = "") -> int:
        return self._read(lambda: self._kv.count(prefix, start=start, stop=stop))

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        self.calls += 1
        when = self.fails(self.calls)
        if when == "before":
            raise OutcomeUnknown(f"call {self.calls} failed (injected, no effect)")
        done = self._kv.commit(compares, ops)
        if when == "after":
            raise OutcomeUnknown(f"call {self.calls} failed (injected, after its effect)")
        return done

    def lease(self, ttl_s: int) -> Lease:
        return self._read(lambda: self._kv.lease(ttl_s))

    def _read(self, call: Callable[[], T]) -> T:
        self.calls += 1
        if self.fails(self.calls):
            raise StoreUnavailable(f"call {self.calls} failed (injected)")
        return call()


class LeaseNoting(DelegatingKeyValue):
    """Passes calls on, and keeps what they were granted: a test can end a lease."""

    def __init__(self, kv: KeyValue) -> None:
        super().__init__(kv)
        self.leases: list[Lease] = []

    def lease(self, ttl_s: int) -> Lease:
        self.leases.append(super().lease(ttl_s))
        return self.leases[-1]
