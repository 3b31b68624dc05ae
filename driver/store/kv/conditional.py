"""Owns making all writes of a task depend on one key: whoever changes that ends the task.

It must not know what the task is.
"""

from __future__ import annotations

from collections.abc import Sequence

from driver.errors import Conflict
from driver.store.kv.delegate import DelegatingKeyValue
from driver.store.kv.protocol import Compare, KeyValue, Op, Unchanged


class ConditionalKeyValue(DelegatingKeyValue):
    """driver.store.kv.protocol.KeyValue that writes only while `key` is as it was at `version`."""

    def __init__(self, kv: KeyValue, key: str, version: int) -> None:
        super().__init__(kv)
        self._condition = Unchanged(key, version)

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        """See KeyValue.  Error, too: Conflict (the condition does not hold any more)."""
        if revision := self._kv.commit([*compares, self._condition], ops):
            return revision
        found = self._kv.get(self._condition.key)
        if (found.mod_revision if found else 0) != self._condition.mod_revision:
            raise Conflict(f"{self._condition.key} in etcd was changed by others")
        return 0
