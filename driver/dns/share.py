"""Bounds what one sandbox takes of the server's thread, whatever and however it asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# On average, and seconds at once: some thousands of queries a second.  What a sandbox asks beyond
# that waits in its socket, or is lost there.
SHARE: Final = 0.25
BURST_S: Final = 0.25


class Share:
    """The time that one sandbox has left.  For the server's thread only."""

    def __init__(self, clock: Callable[[], float], spent: Callable[[], float]) -> None:
        """clock: seconds, monotonic.  spent: seconds of CPU that this thread has taken."""
        self._clock = clock
        self._spent = spent
        self._left_s, self._filled_s = BURST_S, clock()
        self._charged_s = spent()

    def lasts(self) -> bool:
        """Say within an act whether it lasts for another query."""
        self._charge_so_far()
        now_s = self._clock()
        self._left_s = min(BURST_S, self._left_s + SHARE * (now_s - self._filled_s))
        self._filled_s = now_s
        return self._left_s > 0

    def charge(self, act: Callable[[], None]) -> None:
        """Do what takes of it."""
        self._charged_s = self._spent()
        try:
            act()
        finally:
            self._charge_so_far()

    def _charge_so_far(self) -> None:
        spent_s = self._spent()
        self._left_s -= spent_s - self._charged_s
        self._charged_s = spent_s
