"""Calls a function at intervals in its own thread until it is stopped.

A failed call is logged and repeated after the interval.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from driver.errors import SlimError
from driver.work import deadline

log = logging.getLogger(__name__)

LIMIT_S = 60.0  # for one call; thousands of endpoints take seconds


class Repeater:
    """Calls `act` at intervals; a failed call is retried the next time."""

    def __init__(self, name: str, act: Callable[[], None],
                 interval_s: float | Callable[[], float]) -> None:
        """interval_s: from the end of one call to the next; or a function asked each time."""
        self.name = name
        self._act = act
        self._interval_s = interval_s if callable(interval_s) else lambda: interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start calling."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, after the call that is under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s()):
            try:
                with deadline.limit(LIMIT_S):
                    self._act()
            except SlimError as error:
                log.warning("%s: %s; trying again in %g s", self.name, error,
                            self._interval_s())
            except Exception:
                log.exception("%s failed", self.name)
