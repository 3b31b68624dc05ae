"""Leases tombstones: records that replace a removed record for some minutes.

A key that only vanishes says nothing (it may have been lost); a tombstone tells everybody whose
watch or next list comes in time that the removal was meant.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from driver.store.kv.protocol import KeyValue, Put

TTL_S: Final = 600  # seconds, of a lease
FRESH_S: Final = 300.0  # an older lease takes no new tombstones: each one lives 5 to 10 minutes


class Tombstones:
    """Shares one lease among many tombstones.  Thread-safe."""

    def __init__(self, kv: KeyValue, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._kv = kv
        self._clock = clock
        self._lock = threading.Lock()
        self._lease_id = 0
        self._granted_s = 0.0

    def put(self, key: str, value: bytes) -> Put:
        """Return the operation; at LeaseGone call `forget`.  Error: StoreUnavailable."""
        with self._lock:
            lease_id, granted_s = self._lease_id, self._granted_s
        if not lease_id or self._clock() - granted_s > FRESH_S:
            # Not under the lock: without etcd the callers then wait in parallel, not one by one.
            granted_s, lease_id = self._clock(), self._kv.lease(TTL_S).id
            with self._lock:
                self._lease_id, self._granted_s = lease_id, granted_s
        return Put(key, value, lease_id)

    def forget(self) -> None:
        """Drop the lease, which may be gone, as when etcd lost its data; `put` gets another."""
        with self._lock:
            self._lease_id = 0
