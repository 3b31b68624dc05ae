"""Tears down the inside of a sandbox that its last endpoint has left, after Leave has answered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from driver.errors import SlimError
from driver.model import HostAddress
from driver.services.ports import Sandboxes, Teardowns
from driver.work.ledger import Ledger
from driver.work.locks import KeyedLocks

log = logging.getLogger(__name__)

# Usually the container has stopped: after this time its namespace is gone and nothing is left to
# do.  And right after Leave, dockerd needs the kernel's lock and the CPU for its own removals.
AFTER_S: Final = 0.3


class TeardownWorker:
    """Tears sandboxes down.  Usually the container stops and its namespace ends before that.

    A sandbox is noted before anything of it is withdrawn, so that the successor of a killed driver
    continues there.
    """

    def __init__(self, *, sandboxes: Sandboxes, teardowns: Teardowns,
                 underlay: HostAddress | None,
                 locks: KeyedLocks, in_use: Callable[[str], bool], ledger: Ledger) -> None:
        """locks: by sandbox key, one change of a sandbox at a time.

        in_use: whether an endpoint that carries the host path has joined or is joining that
        sandbox.  When the driver stops, what waits is done; what fails stays noted for the next.
        """
        self._sandboxes = sandboxes
        self._teardowns = teardowns
        self._underlay = underlay
        self._locks = locks
        self._in_use = in_use
        self._page = ledger.page("tear down sandbox", self._tear_down, drain=True, called=str)

    def note(self, sandbox_key: str) -> None:
        """Put on record that the sandbox is being left."""
        try:
            self._teardowns.begin(sandbox_key)
        except SlimError as error:  # only the successor of a killed driver would need the note
            log.warning("%s", error)

    def submit(self, sandbox_key: str) -> None:
        """Tear the sandbox down after AFTER_S, unless it is in use again by then."""
        self._page.put(sandbox_key, None, AFTER_S)

    def resume(self) -> None:
        """Continue the teardowns that an earlier driver left.  Error: LinkError."""
        for key in self._teardowns.outstanding():
            self.submit(key)

    def _tear_down(self, key: str, _none: None) -> None:
        with self._locks.hold(key):
            if not self._in_use(key):
                self._sandboxes.tear_down(key, self._underlay)
            self._teardowns.end(key)
