"""Keeps the steps that a failing store left open and finishes them before its next use.

In memory only: after a crash, reconciling finds the rest.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from driver.errors import SlimError, StoreUnavailable
from driver.work import deadline

WAIT_S = 2.0  # for another thread that is settling

log = logging.getLogger(__name__)


class Doubts:
    """Idempotent steps in the order they were left open.  Thread-safe.

    There are two kinds: undoing what may have happened although its requester was told that it
    failed, and finishing what will not be requested again (dockerd forgets an object whose
    deletion fails).
    """

    def __init__(self) -> None:
        # One thread settles and the others wait: a step that runs beside a new request could
        # take away what that request has just been given.
        self._settling = threading.Lock()
        self._steps: deque[Callable[[], None]] = deque()

    def add(self, step: Callable[[], None]) -> None:
        """Remember a step for later."""
        self._steps.append(step)

    def settle(self) -> None:
        """Do all remembered steps.

        Error: StoreUnavailable; steps that could not be done stay remembered.
        """
        if not self._steps:
            return
        if not self._settling.acquire(timeout=deadline.remaining_s(WAIT_S)):
            raise StoreUnavailable("what etcd did not confirm earlier is still being settled, "
                                   "try again")
        try:
            while self._steps:
                try:
                    self._steps[0]()
                except StoreUnavailable:
                    raise
                except SlimError as error:  # it would block the queue for ever
                    log.error("a step left open by an outage is given up: %s", error)
                except Exception:  # a bug in the driver would block it, too
                    log.exception("a step left open by an outage is given up; what it leaves is "
                                  "found by collecting")
                self._steps.popleft()
        finally:
            self._settling.release()
