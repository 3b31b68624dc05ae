"""Takes summaries of this host in a thread of its own, as long as somebody wants them.

While nobody does, the thread sleeps, and nothing is remembered.  It takes a small share of one
processor: what takes long is done more rarely.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from driver.errors import SlimError
from driver.services.ports import Summary
from driver.services.watching.here import Here

EVERY_S: Final = 2.0  # between the beginnings of two samples, at most as often
EVERY_MOST_S: Final = 60.0
SHARE: Final = 0.05  # of one processor
LINGER_S: Final = 15.0  # after the last question

log = logging.getLogger(__name__)


class Samples:
    """The last summary.  Thread-safe."""

    def __init__(self, here: Here, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._here = here
        self._clock = clock
        self._changed = threading.Condition()  # of the rest
        self._until_s = float("-inf")  # somebody here wants them
        self._watched = False  # other hosts want them
        self._stopped = False
        self._latest: Summary | None = None
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    def start(self) -> None:
        """Start; nothing is taken until somebody asks."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, after a sample that is under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def ask(self) -> tuple[Summary | None, str]:
        """Return the latest summary, and why there is no newer one; have more taken for a while.

        None: the first one is being taken.
        """
        with self._changed:
            self._until_s = self._clock() + LINGER_S
            self._changed.notify_all()
            return self._latest, self._problem

    def latest(self) -> Summary | None:
        """Return the latest summary; None: there is none."""
        with self._changed:
            return self._latest

    def watched(self, by_others: bool) -> None:
        """Take the news whether other hosts want summaries.  Returns at once."""
        with self._changed:
            self._watched = by_others
            self._changed.notify_all()

    def _wanted(self) -> bool:
        return self._watched or self._clock() < self._until_s

    def _run(self) -> None:
        while self._wait_until_wanted():
            began_s = self._clock()
            problem, taken = "", None
            try:
                taken = self._here.take()
            except SlimError as error:
                problem = str(error)
            except Exception as error:  # the thread must outlive a bug
                log.exception("a sample failed")
                problem = f"an error in slim itself, {type(error).__name__}: {error}"
            took_s = self._clock() - began_s
            every_s = min(max(EVERY_S, took_s / SHARE), EVERY_MOST_S)
            with self._changed:
                self._problem = problem
                if taken is not None:
                    self._latest = replace(taken, every_s=every_s)
                self._changed.wait_for(
                    lambda: self._stopped, max(0.0, every_s - took_s))

    def _wait_until_wanted(self) -> bool:
        """Wait, without waking up in between; return False at the end."""
        with self._changed:
            if not self._wanted() and not self._stopped:
                self._here.begin_anew()
                self._latest, self._problem = None, ""
                self._changed.wait_for(lambda: self._stopped or self._wanted())
            return not self._stopped
