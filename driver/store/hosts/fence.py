"""Owns the fence of a host's writes: once raised, nothing that was sent before can still happen.

It must not know what is written.  A write that etcd did not answer may lie in a queue (of a member
that is frozen, of a connection that is cut) and take effect long after it was given up.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from driver.errors import StoreUnavailable
from driver.model import HostId
from driver.store.format import keys, records
from driver.store.kv.delegate import DelegatingKeyValue
from driver.store.kv.protocol import (
    Compare,
    Entry,
    KeyValue,
    Listing,
    Op,
    OutcomeUnknown,
    Put,
    Unchanged,
)
from driver.work import deadline

WAIT_S = 2.0  # for another thread that raises the fence


class FencedKeyValue(DelegatingKeyValue):
    """A KeyValue: what it reads after an OutcomeUnknown is final.  Thread-safe.

    Each write is made on condition that the host's fence, a key, is as it was.  After a write of
    unknown outcome the fence is written anew before anything else is read or written.
    """

    def __init__(self, kv: KeyValue, host: HostId) -> None:
        super().__init__(kv)
        self._key = keys.fence(host)
        self._lock = threading.Lock()
        self._revision: int | None = None  # of the fence; 0: it was never raised
        # A write of unknown outcome leaves a new token; raising the fence settles the token that
        # there was before, and so all earlier ones.
        self._doubt: object | None = None
        self._settled_doubt: object | None = None

    def get(self, key: str) -> Entry | None:
        """See KeyValue."""
        self._settled()
        return self._kv.get(key)

    def range(self, prefix: str, *, start: str = "", stop: str = "", limit: int = 0,
              keys_only: bool = False) -> Listing:
        """See KeyValue."""
        self._settled()
        return self._kv.range(prefix, start=start, stop=stop, limit=limit, keys_only=keys_only)

    def count(self, prefix: str, *, start: str = "", stop: str = "") -> int:
        """See KeyValue."""
        self._settled()
        return self._kv.count(prefix, start=start, stop=stop)

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        """See KeyValue.  0, too, if the fence was raised meanwhile: read again."""
        revision = self._settled()
        if revision is None:
            revision = self._read()
        try:
            done = self._kv.commit([*compares, Unchanged(self._key, revision)], ops)
        except OutcomeUnknown:
            self._doubt = object()
            raise
        if not done and self._revision == revision:
            self._revision = None  # perhaps it was the fence: a raising of ours came late
        return done

    def _settled(self) -> int | None:
        """Raise the fence if need be; return its revision if that is known."""
        if self._settled_doubt is self._doubt:
            return self._revision
        # Whoever comes meanwhile must wait: what it read might still change.
        if not self._lock.acquire(timeout=deadline.remaining_s(WAIT_S)):
            raise StoreUnavailable("etcd has not confirmed an earlier write yet, try again")
        try:
            doubt = self._doubt
            if self._settled_doubt is not doubt:
                self._kv.commit([], [Put(self._key, records.encode({}))])
                self._revision, self._settled_doubt = None, doubt
            return self._revision
        finally:
            self._lock.release()

    def _read(self) -> int:
        entry = self._kv.get(self._key)
        self._revision = entry.mod_revision if entry else 0
        return self._revision
