"""Lowers the overlay path's MTU where a router on the way to a host carries less (IPv6).

Routers do not fragment IPv6, and containers are not told by the VXLAN device: what is too long for
one of the ways would be lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final

from driver.model import HostAddress

log = logging.getLogger(__name__)

INTERVAL_S: Final = 2.0  # between looks: a connection's first retransmissions
# Containers' IPv6 asks for 1280 bytes, and the tunnel adds 70.  Whoever forges a router's word
# cannot make it less.
MINIMUM: Final = 1280 + 70


class PathMtu:
    """Looks at what routers have told of the ways to other hosts.  For one thread.

    What was lowered stays so for this driver's life: a router tells only when a packet is lost.
    """

    def __init__(self, told: Callable[[], Mapping[HostAddress, int]],
                 hosts: Callable[[], Collection[HostAddress]],
                 lower: Callable[[int], None]) -> None:
        """told: returns MTUs in bytes, by destination.  hosts: the other hosts' underlay addresses.

        lower: takes the lowest MTU so far; called again if it raised an error.
        """
        self._told = told
        self._hosts = hosts
        self._lower = lower
        self._lowest: int | None = None

    def run(self) -> None:
        """Look once.  Errors: LinkError, and what `lower` raises."""
        told, hosts = self._told(), set(self._hosts())
        ways = [(mtu, host) for host, mtu in told.items() if host in hosts]
        if not ways:
            return
        mtu, host = min(ways, key=lambda each: each[0])
        wanted = max(mtu, MINIMUM)
        if self._lowest is not None and wanted >= self._lowest:
            return
        log.warning("a router on the way to host %s carries %d bytes: so does the overlay path of "
                    "this host from now on", host, mtu)
        if mtu < MINIMUM:
            log.error("%d bytes are needed on the way to host %s: large packets to its containers "
                      "are lost", MINIMUM, host)
        self._lower(wanted)
        self._lowest = wanted
