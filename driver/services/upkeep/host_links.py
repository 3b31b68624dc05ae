"""Restores what others remove from this host's links: programs, and the VXLAN device.

Network managers and people remove what they did not create; without our programs, nobody handles
an interface's packets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from driver.errors import SlimError
from driver.work.later import Later

log = logging.getLogger(__name__)

SOON_S: Final = 0.02  # one removal causes several messages
AGAIN_S: Final = 1.0
TRIES: Final = 5  # nothing can be restored on a link that is gone for good


class HostLinks:
    """Restores what was removed.  Thread-safe."""

    def __init__(self, restore: Callable[[int], bool]) -> None:
        """restore: restores all of ours on an interface (0: unknown); False: it is not ours."""
        self._restore = restore
        self._tries: dict[int, int] = {}
        self._later: Later[int] = Later(self._put_back, threads=1, name="host links")

    def start(self) -> None:
        """Start restoring."""
        self._later.start()

    def stop(self) -> None:
        """Stop restoring."""
        self._later.stop()

    def removed(self, ifindex: int) -> None:
        """Take the news that the interface, or something on it, was removed.  Returns at once."""
        self._tries[ifindex] = 0
        self._later.submit(ifindex, SOON_S)

    def _put_back(self, ifindex: int) -> None:
        tries = self._tries.pop(ifindex, 0)
        try:
            if self._restore(ifindex):
                log.info("interface %d: what was removed from it is back", ifindex)
        except SlimError as error:
            log.debug("interface %d: %s", ifindex, error)
            if tries < TRIES:
                self._tries[ifindex] = tries + 1
                self._later.submit(ifindex, AGAIN_S)
