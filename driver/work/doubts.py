"""Keeps the steps that a failing store left open and finishes them before its next use."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from driver.errors import SlimError, StoreUnavailable
from driver.work import deadline
from driver.work.ledger import Ledger, Page

WAIT_S = 2.0  # for another thread that is settling

log = logging.getLogger(__name__)


class Doubts:
    """Idempotent steps in the order they were left open.  Thread-safe.

    There are two kinds: undoing what may have happened although its requester was told that it
    failed, and finishing what will not be requested again (dockerd forgets an object whose
    deletion fails).  Unlike other outstanding steps they must not run beside a new request: they
    could take away what that request has just been given.
    """

    def __init__(self, what: str, ledger: Ledger | None = None) -> None:
        """what: whose outcome etcd did not confirm, for the status.

        ledger: repeats `settle` when nobody uses the store; None: nobody does.
        """
        self._what = what
        # One thread settles and the others wait.
        self._settling = threading.Lock()
        self._steps: dict[str, Callable[[], None]] = {}
        self._page: Page[str, None] = (ledger or Ledger()).page(
            "settle what etcd did not confirm of", lambda _what, _none: self.settle(),
            called=str)

    def add(self, key: str, step: Callable[[], None], error: SlimError) -> None:
        """Remember a step for later, in place of the key's earlier one.

        error: what kept it from being done, or its outcome from being known.
        """
        self._steps[key] = step
        self._page.note(self._what, None, error)

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
            for key, step in list(self._steps.items()):
                try:
                    step()
                except StoreUnavailable:
                    raise
                except SlimError as error:  # it would block the queue for ever
                    log.error("%s, left open by an outage, is given up: %s", key, error)
                except Exception:  # a bug in the driver would block it, too
                    log.exception("%s, left open by an outage, is given up; what it leaves is "
                                  "found by collecting", key)
                if self._steps.get(key) is step:  # else there is a newer one by now
                    del self._steps[key]
        finally:
            self._settling.release()
