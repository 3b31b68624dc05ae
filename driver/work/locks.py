"""Serializes the calls about one object with one lock per object id.

A lock exists only while somebody wants it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from driver.errors import Conflict
from driver.work import deadline

WAIT_S = 4.0  # a call of dockerd must be answered within 5 s, whatever holds the lock


class KeyedLocks:
    """Mutual exclusion by key.  dockerd retries and repeats calls; concurrent ones must not mix."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}  # key -> lock, users

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Hold the lock of `key`.  Error: Conflict if it does not become free in time."""
        with self._guard:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            if not lock.acquire(timeout=deadline.remaining_s(self._wait_s)):
                raise Conflict(f"another call for {key[:12]} is still running; try again")
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                lock, users = self._locks[key]
                if users == 1:
                    del self._locks[key]
                else:
                    self._locks[key] = (lock, users - 1)
