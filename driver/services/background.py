"""Owns work that goes on beside Docker's calls: recovering at start, and repeating at intervals.

It must not know what is recovered or repeated.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from driver import deadline
from driver.errors import SlimError, StoreUnavailable
from driver.services.reconcile import Reconciler

log = logging.getLogger(__name__)

RETRY_S = 1.0  # between attempts to read etcd at start
LIMIT_S = 60.0  # for one attempt; thousands of endpoints take seconds


class Recovery:
    """Reconciles as soon as etcd can be read: at start if possible, else in the background."""

    def __init__(self, reconciler: Reconciler, retry_s: float = RETRY_S) -> None:
        self._reconciler = reconciler
        self._retry_s = retry_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)
        self.done = threading.Event()

    def start(self) -> None:
        """Try once; without etcd go on trying in the background."""
        if not self._attempt(first=True):
            self._thread.start()

    def stop(self) -> None:
        """Give up."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def state(self) -> str:
        """In a word or two."""
        return "done" if self.done.is_set() else "waits for etcd"

    def _run(self) -> None:
        while not self._stopping.wait(self._retry_s):
            if self._attempt(first=False):
                return

    def _attempt(self, *, first: bool) -> bool:
        try:
            with deadline.limit(LIMIT_S):
                self._reconciler.run()
        except StoreUnavailable as error:
            if first:
                log.warning("etcd cannot be read, trying on: %s", error)
            return False
        except SlimError as error:
            log.error("reconciling failed, trying again: %s", error)
            return False
        self.done.set()
        return True


class Repeater:
    """Calls `act` at intervals; what fails is tried again the next time."""

    def __init__(self, name: str, act: Callable[[], None], interval_s: float) -> None:
        self._name = name
        self._act = act
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the call that is under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                with deadline.limit(LIMIT_S):
                    self._act()
            except SlimError as error:
                log.warning("%s: %s; trying again in %g s", self._name, error, self._interval_s)
            except Exception:
                log.exception("%s failed", self._name)
