"""Owns whom the guard protects: the hosts that this host's networks have endpoints on.

It must not know how packets are filtered.  Without a guard slim works, and containers of other
networks of this host can speak in its name: that is logged, shown by the status, and tried again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address
from typing import Protocol

from driver.errors import LinkError
from driver.model import Vni

log = logging.getLogger(__name__)


class Guard(Protocol):
    """Drops what this host would forward to peers as if it were its own.  All: LinkError."""

    def install(self, hosts: Collection[IPv4Address]) -> None:
        """Make it anew, for these underlay addresses of peers."""

    def change(self, added: Collection[IPv4Address], removed: Collection[IPv4Address]) -> None:
        """Change the peers.  Refused where it is not there."""

    def dropped(self) -> int | None:
        """Packets dropped since it was made; None: it is not there, or not whole."""


class Guarding:
    """Keeps the guard in place and its peers right.  Thread-safe."""

    def __init__(self, guard: Guard, inherited: Collection[IPv4Address]) -> None:
        """inherited: peers that a driver before this one knew; protected as long as this runs."""
        self._guard = guard
        self._inherited = frozenset(inherited)
        self._by_network: dict[Vni, frozenset[IPv4Address]] = {}
        self._installed: frozenset[IPv4Address] | None = None  # None: has to be made anew
        self._problem: str | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Install it.  A failure is logged only."""
        with self._lock:
            self._bring_up()

    def hosts_changed(self, vni: Vni, hosts: Sequence[IPv4Address]) -> None:
        """Take news of a network: the other hosts that have endpoints of it."""
        with self._lock:
            if hosts:
                self._by_network[vni] = frozenset(hosts)
            else:
                self._by_network.pop(vni, None)
            self._bring_up()

    def check(self) -> None:
        """Look whether it is still there: others may flush the whole packet filter."""
        with self._lock:
            installed = self._installed
        try:  # without the lock, which Joins wait for
            whole = self._guard.dropped() is not None
        except LinkError:
            whole = False  # installing says why
        with self._lock:
            # Changed meanwhile: it was there then, and the next look is not far.
            if not whole and installed is not None and installed is self._installed:
                log.warning("the guard (nftables table slim) was removed: it is made anew; does "
                            "something flush the rule set?")
                self._installed = None
            self._bring_up()

    def state(self) -> str:
        """In a word or two, for the status."""
        with self._lock:
            if self._problem is not None or self._installed is None:
                return f"missing: {self._problem}"
            hosts = len(self._installed)
        try:
            dropped = self._guard.dropped()
        except LinkError as error:
            return f"unknown: {error}"
        if dropped is None:
            return "missing: somebody has removed it; it is made anew at the next look"
        return f"{hosts} hosts, {dropped} packets dropped"

    def _bring_up(self) -> None:
        wanted = self._inherited.union(*self._by_network.values())
        try:
            if self._installed is None:
                self._guard.install(wanted)
            elif wanted != self._installed:
                self._guard.change(wanted - self._installed, self._installed - wanted)
        except LinkError as error:
            if str(error) != self._problem:
                log.error("there is no guard against forged packets: %s", error)
            self._installed, self._problem = None, str(error)
            return
        self._installed, self._problem = wanted, None
