"""Owns effects whose outcome is unknown: what to undo before anything else is asked of the store.

It must not know what they are.  In memory only: after a crash, reconciling finds the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Doubts:
    """Undo steps that wait for the store to answer again.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._undos: list[Callable[[], None]] = []

    def add(self, undo: Callable[[], None]) -> None:
        """Remember an idempotent undo of something that may have happened."""
        with self._lock:
            self._undos.append(undo)

    def settle(self) -> None:
        """Undo everything remembered; what fails stays remembered, and its error is raised."""
        while True:
            with self._lock:
                if not self._undos:
                    return
                undo = self._undos[0]
            undo()
            with self._lock:
                if undo in self._undos:
                    self._undos.remove(undo)
