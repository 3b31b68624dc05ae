"""Fences a host's writes: once the fence is raised, no write sent before can take effect.

A write that etcd did not answer may lie in a queue (of a frozen member, or of a cut connection)
and take effect long after it was given up.
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

WAIT_S = 2.0  # for another thread to raise the fence


class FencedKeyValue(DelegatingKeyValue):
    """A KeyValue whose reads after an OutcomeUnknown are final.  Thread-safe.

    Each write is conditional on the host's fence, a key, being unchanged.  After a write of
    unknown outcome the fence is rewritten before anything else is read or written.
    """

    def __init__(self, kv: KeyValue, host: HostId) -> None:
        super().__init__(kv)
        self._key = keys.fence(host)
        self._lock = threading.Lock()
        self._revision: int | None = None  # of the fence; 0: it was never raised
        # A write of unknown outcome stores a new token; raising the fence settles the token that
        # was stored before, and so all earlier ones.
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
        """See KeyValue.  Also 0 if the fence was raised meanwhile: read again."""
        revision = self._settled()
        if revision is None:
            revision = self._read()
        try:
            done = self._kv.commit([*compares, Unchanged(self._key, revision)], ops)
        except OutcomeUnknown:
            self._doubt = object()
            raise
        if not done and self._revision == revision:
            self._revision = None  # perhaps the fence: an earlier fence write of ours arrived late
        return done

    def _settled(self) -> int | None:
        """Raise the fence if necessary; return its revision if known."""
        if self._settled_doubt is self._doubt:
            return self._revision
        # Other threads must wait meanwhile: what they read might still change.
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
