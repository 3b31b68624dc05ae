"""Shows the user how far a benchmark is: lines, and one line with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def say(text: str = "") -> None:
    """Print a line at once, in place of the progress line."""
    if sys.stdout.isatty():
        text = f"\r\033[K{text}"
    print(text, flush=True)


def duration(seconds: float) -> str:
    """Format a duration for people: "4 min 10 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Progress:
    """Estimates the time left, from how long the runs so far took and were expected to take."""

    def __init__(self, expected_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._expected_s, self._done_s, self._began = expected_s, 0.0, clock()
        self._clock = clock
        self._last = ""

    def left_s(self) -> float:
        """Return the seconds left."""
        pace = (self._clock() - self._began) / self._done_s if self._done_s else 1.0
        return max(0.0, self._expected_s - self._done_s) * pace

    def show(self, headline: str, detail: str) -> None:
        """Say what runs now.  A terminal shows every step, a log one line for each headline."""
        left = f"{duration(self.left_s())} left"
        if sys.stdout.isatty():
            print(f"\r\033[K{headline}: {detail}; {left}", end="", flush=True)
        elif headline != self._last:
            print(f"{headline}; {left}", flush=True)
        self._last = headline

    def done(self, expected_s: float) -> None:
        """Note the end of a run that was expected to take so long."""
        self._done_s += expected_s

    def clear(self) -> None:
        """Empty the progress line."""
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)
