"""Remembers what this host last saw of single keys, so that a change need not read them first.

A recalled entry may be out of date: it is for changes that compare it when they commit, and read
again when they are refused.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from driver.store.kv.delegate import DelegatingKeyValue
from driver.store.kv.protocol import Compare, Entry, KeyValue, Op, Put

KEPT: Final = 4096  # entries, about 300 bytes each; the least recently used go first


class RecallingKeyValue(DelegatingKeyValue):
    """A driver.store.kv.protocol.KeyValue that recalls what it read and wrote.  Thread-safe."""

    def __init__(self, kv: KeyValue) -> None:
        super().__init__(kv)
        self._lock = threading.Lock()
        # Only existing entries: "absent" is never recalled, because a change that finds nothing to
        # do commits nothing, and would not notice.
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def recall(self, key: str) -> Entry | None:
        """See KeyValue."""
        with self._lock:
            return self._entries.get(key)

    def get(self, key: str) -> Entry | None:
        """See KeyValue."""
        entry = self._kv.get(key)
        if entry is None:
            self._forget(key)
        else:
            self._learn(entry)
        return entry

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        """See KeyValue."""
        # Before the commit: whatever its outcome, the recalled entries of these keys become wrong.
        self._forget(*(op.key for op in ops))
        revision = self._kv.commit(compares, ops)
        if revision:
            self._learn(*(Entry(op.key, op.value, revision)
                          for op in ops if isinstance(op, Put) and not op.lease_id))
        else:
            self._forget(*(compare.key for compare in compares))
        return revision

    def _learn(self, *entries: Entry) -> None:
        with self._lock:
            for entry in entries:
                known = self._entries.get(entry.key)
                if known is None or known.mod_revision < entry.mod_revision:
                    self._entries[entry.key] = entry
                self._entries.move_to_end(entry.key)
            while len(self._entries) > KEPT:
                self._entries.popitem(last=False)

    def _forget(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                self._entries.pop(key, None)
