"""Sets up the log: its format, and a limit of once an hour for faults that persist.

A caller marks such a line with `extra=STANDING`: repeating the text would say nothing new.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
STANDING: Final = {"standing": True}
AGAIN_S: Final = 3600.0
KEPT = 10_000  # texts; with more faults than that, the oldest are logged again


class StandingOnce(logging.Filter):
    """Lets a line with `STANDING` through once an hour.  Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        if not getattr(record, "standing", False):
            return True
        text, now_s = record.getMessage(), self._clock()
        with self._lock:
            said_s = self._said.get(text)
            if said_s is not None and now_s - said_s < AGAIN_S:
                return False
            self._said.pop(text, None)  # moves to the end: the first is the oldest
            self._said[text] = now_s
            if len(self._said) > KEPT:
                del self._said[next(iter(self._said))]
        return True


def begin(level: str = "INFO") -> None:
    """Write everything from `level` on to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(StandingOnce())
    logging.basicConfig(level=level, format=FORMAT, handlers=[handler])
