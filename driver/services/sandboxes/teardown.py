"""Owns removing what is inside a sandbox that its last endpoint has left, after Leave's answer.

It must not know the maps, nor who is in a sandbox: it asks whether the host path is still used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from driver.errors import SlimError
from driver.services.ports import Sandboxes, Teardowns
from driver.work.later import RETRY_PAUSES_S, Later
from driver.work.locks import KeyedLocks

log = logging.getLogger(__name__)

# Mostly the container has stopped: by then its namespace is gone and nothing is left to do.  And
# dockerd, which goes on with its own removals, needs the kernel's lock and the CPU at this moment.
AFTER_S: Final = 0.3


class TeardownWorker:
    """Mostly the container stops, and its namespace goes before anybody has torn it down.

    A sandbox is noted before anything of it is withdrawn: a driver that follows one which was
    killed goes on there.
    """

    def __init__(self, *, sandboxes: Sandboxes, teardowns: Teardowns, underlay: IPv4Address,
                 locks: KeyedLocks, in_use: Callable[[str], bool],
                 clock: Callable[[], float] = time.monotonic) -> None:
        """locks: by sandbox key, one change of a sandbox at a time.  clock: seconds, monotonic.

        in_use: an endpoint has joined, or joins, and carries the host path in that sandbox.
        """
        self._sandboxes = sandboxes
        self._teardowns = teardowns
        self._underlay = underlay
        self._locks = locks
        self._in_use = in_use
        self._attempts: dict[str, int] = {}
        self._later: Later[str] = Later(self._tear_down, threads=1, name="sandbox teardown",
                                        clock=clock)

    def start(self) -> None:
        """Begin to work."""
        self._later.start()

    def stop(self) -> None:
        """Do what waits, and stop; what fails stays noted, for the next driver."""
        self._later.stop(drain=True)

    def note(self, sandbox_key: str) -> None:
        """Put on record that the sandbox is being left."""
        try:
            self._teardowns.begin(sandbox_key)
        except SlimError as error:  # only a driver that is killed would need it
            log.warning("%s", error)

    def submit(self, sandbox_key: str) -> None:
        """Tear the sandbox down in AFTER_S, unless it is used again by then."""
        self._attempts[sandbox_key] = 0
        self._later.submit(sandbox_key, AFTER_S)

    def resume(self) -> None:
        """Go on with what a driver of before left.  Error: LinkError."""
        for key in self._teardowns.outstanding():
            self.submit(key)

    def _tear_down(self, key: str) -> None:
        try:
            with self._locks.hold(key):
                if not self._in_use(key):
                    self._sandboxes.tear_down(key, self._underlay)
                self._teardowns.end(key)
        except SlimError as error:
            attempt = self._attempts.get(key, 0)
            self._attempts[key] = attempt + 1
            if attempt < len(RETRY_PAUSES_S):
                self._later.submit(key, RETRY_PAUSES_S[attempt])
                return
            log.warning("sandbox %s is left with routes of slim: %s", key, error)
        self._attempts.pop(key, None)
