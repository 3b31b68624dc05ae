"""Makes every write conditional on one guard key; changing the key cancels the task.

A cancelled task's next write raises Conflict.
"""

from __future__ import annotations

from collections.abc import Sequence

from driver.errors import Conflict
from driver.store.kv.delegate import DelegatingKeyValue
from driver.store.kv.protocol import Compare, KeyValue, Op, Unchanged


class ConditionalKeyValue(DelegatingKeyValue):
    """A driver.store.kv.protocol.KeyValue that writes only while `key` is at revision `version`."""

    def __init__(self, kv: KeyValue, key: str, version: int) -> None:
        super().__init__(kv)
        self._condition = Unchanged(key, version)

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        """See KeyValue.  Also raises Conflict (the condition no longer holds)."""
        if revision := self._kv.commit([*compares, self._condition], ops):
            return revision
        found = self._kv.get(self._condition.key)
        if (found.mod_revision if found else 0) != self._condition.mod_revision:
            raise Conflict(f"{self._condition.key} in etcd was changed by others")
        return 0
