"""Owns making all writes of a task depend on one key: whoever changes that ends the task.

It must not know what the task is.
"""

from __future__ import annotations

from collections.abc import Sequence

from driver.errors import Conflict
from driver.store.kv import Compare, Entry, KeyValue, Lease, Listing, Op, Unchanged, Watch


class ConditionalKeyValue:
    """driver.store.kv.KeyValue that writes only while `key` is as it was at `version`."""

    def __init__(self, kv: KeyValue, key: str, version: int) -> None:
        self._kv = kv
        self._condition = Unchanged(key, version)

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
        """See KeyValue.  Error, too: Conflict (the condition does not hold any more)."""
        if revision := self._kv.commit([*compares, self._condition], ops):
            return revision
        found = self._kv.get(self._condition.key)
        if (found.mod_revision if found else 0) != self._condition.mod_revision:
            raise Conflict(f"{self._condition.key} in etcd was changed by others")
        return 0

    def watch(self, prefix: str, from_revision: int) -> Watch:
        """See KeyValue."""
        return self._kv.watch(prefix, from_revision)

    def lease(self, ttl_s: int) -> Lease:
        """See KeyValue."""
        return self._kv.lease(ttl_s)
