"""Restores what others remove from this host's links: programs, and the VXLAN device.

Network managers and people remove what they did not create; without our programs, nobody handles
an interface's packets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from driver.work.ledger import Ledger

log = logging.getLogger(__name__)

SOON_S: Final = 0.02  # one removal causes several messages


class HostLinks:
    """Restores what was removed.  Thread-safe."""

    def __init__(self, restore: Callable[[int], bool], ledger: Ledger) -> None:
        """restore: restores all of ours on an interface (0: unknown); False: it is not ours."""
        self._restore = restore
        self._page = ledger.page("restore what is ours on interface", self._put_back, called=str)

    def removed(self, ifindex: int) -> None:
        """Take the news that the interface, or something on it, was removed.  Returns at once."""
        self._page.put(ifindex, None, SOON_S)

    def _put_back(self, ifindex: int, _none: None) -> None:
        if self._restore(ifindex):
            log.info("interface %d: what was removed from it is back", ifindex)
