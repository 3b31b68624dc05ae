"""Owns the lease of tombstones: of what stands, for minutes, in the place of a removed record.

It must not know what is removed.  A key that only vanishes says nothing (it may have been lost); a
tombstone says that somebody meant it, to everybody whose watch or next list comes in its time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from driver.store.kv.protocol import KeyValue, Put

TTL_S: Final = 600  # of a lease
FRESH_S: Final = 300.0  # a lease that is older takes no more: each tombstone lives 5 to 10 minutes


class Tombstones:
    """One lease for many.  Thread-safe."""

    def __init__(self, kv: KeyValue, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._kv = kv
        self._clock = clock
        self._lock = threading.Lock()
        self._lease_id = 0
        self._granted_s = 0.0

    def put(self, key: str, value: bytes) -> Put:
        """Return the operation; `forget` is to be called at LeaseGone.  Error: StoreUnavailable."""
        with self._lock:
            lease_id, granted_s = self._lease_id, self._granted_s
        if not lease_id or self._clock() - granted_s > FRESH_S:
            # Not under the lock: without etcd the callers wait side by side, not in a row.
            granted_s, lease_id = self._clock(), self._kv.lease(TTL_S).id
            with self._lock:
                self._lease_id, self._granted_s = lease_id, granted_s
        return Put(key, value, lease_id)

    def forget(self) -> None:
        """The lease may have gone, with all of etcd's data, say: the next one is a new one."""
        with self._lock:
            self._lease_id = 0
