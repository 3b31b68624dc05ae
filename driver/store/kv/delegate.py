"""Forwards every KeyValue call to another KeyValue.

Subclasses override some of the calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from driver.store.kv.protocol import Compare, Entry, KeyValue, Lease, Listing, Op


class DelegatingKeyValue:
    """A KeyValue that forwards every call to another one.  As thread-safe as the other one."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    def get(self, key: str) -> Entry | None:
        """See KeyValue."""
        return self._kv.get(key)

    def recall(self, key: str) -> Entry | None:
        """See KeyValue."""
        return self._kv.recall(key)

    def range(self, prefix: str, *, start: str = "", stop: str = "", limit: int = 0,
              keys_only: bool = False) -> Listing:
        """See KeyValue."""
        return self._kv.range(prefix, start=start, stop=stop, limit=limit, keys_only=keys_only)

    def count(self, prefix: str, *, start: str = "", stop: str = "") -> int:
        """See KeyValue."""
        return self._kv.count(prefix, start=start, stop=stop)

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        """See KeyValue."""
        return self._kv.commit(compares, ops)

    def lease(self, ttl_s: int) -> Lease:
        """See KeyValue."""
        return self._kv.lease(ttl_s)
