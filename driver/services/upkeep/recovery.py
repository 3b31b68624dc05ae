"""Takes over what runs when the driver starts, and retries until all is in line with etcd.

It runs concurrently with Docker's calls, and says when etcd was read for the first time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from driver.errors import SlimError, StoreUnavailable
from driver.services.upkeep.reconcile import Reconciler
from driver.work import deadline

log = logging.getLogger(__name__)

RETRY_S = 1.0  # between attempts to read etcd at start
RETRY_MAX_S = 60.0  # between attempts at what the kernel refuses; doubled up to this
LIMIT_S = 60.0  # for one attempt; thousands of endpoints take seconds
# How long the start waits for the first attempt.  Taking over a thousand endpoints lasts longer;
# meanwhile dockerd, which would look for the socket in vain, is served.
FIRST_S = 2.0


class Recovery:
    """Takes over what runs at the start, and says when etcd was read for the first time.

    `done` is set once etcd was read; what fails or is in doubt is retried with growing pauses.
    """

    def __init__(self, reconciler: Reconciler, read_etcd: Callable[[], object] = lambda: None,
                 retry_s: float = RETRY_S) -> None:
        """read_etcd: reads anything from etcd; may raise StoreUnavailable."""
        self._reconciler = reconciler
        self._read_etcd = read_etcd
        self._retry_s = retry_s
        self._complete = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)
        self._tried = threading.Event()
        self.done = threading.Event()

    def start(self) -> None:
        """Start, and wait at most FIRST_S for the first attempt."""
        self._thread.start()
        self._tried.wait(FIRST_S)

    def stop(self) -> None:
        """Give up."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def state(self) -> str:
        """Describe the state in a word or two."""
        if self.done.is_set():
            doubtful = self._reconciler.doubtful()
            return f"done; IN DOUBT, and kept: {', '.join(doubtful[:5])}" if doubtful else "done"
        return "waits for etcd" if self._tried.is_set() else "under way"

    def _run(self) -> None:
        try:
            if self.attempt(first=True):
                return
        finally:
            self._tried.set()
        pause_s = self._retry_s
        while not self._stopping.wait(pause_s):
            if self.attempt():
                return
            if self.done.is_set():
                pause_s = min(2 * pause_s, RETRY_MAX_S)

    def attempt(self, *, first: bool = False) -> bool:
        """Try once, in the caller's thread; return whether nothing is left to do."""
        try:
            with deadline.limit(LIMIT_S):
                self._complete = self._complete or self._reconciler.run()
                if not self.done.is_set():
                    self._read_etcd()
        except StoreUnavailable as error:
            if first:
                log.warning("etcd cannot be read, retrying: %s", error)
            return False
        except SlimError as error:
            log.error("reconciling failed, trying again: %s", error)
            return False
        self.done.set()
        return self._complete
