"""Keeps the guard up to date for the hosts that this host's networks have endpoints on.

Without a guard slim works, but containers of other networks of this host can speak in its name:
that is logged, shown in the status, and retried.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence
from typing import Protocol

from driver.errors import LinkError
from driver.model import HostAddress, Vni

log = logging.getLogger(__name__)


class Guard(Protocol):
    """Drops what this host would forward to peers as its own packets.  All errors: LinkError."""

    def install(self, hosts: Collection[HostAddress]) -> None:
        """Create it afresh, for these underlay addresses of peers."""

    def change(self, added: Collection[HostAddress], removed: Collection[HostAddress]) -> None:
        """Change the peers.  Fails if the guard does not exist."""

    def dropped(self) -> int | None:
        """Return the packets dropped since its creation; None: it is missing or incomplete."""


class Guarding:
    """Keeps the guard in place and its peers correct.  Thread-safe."""

    def __init__(self, guard: Guard, inherited: Collection[HostAddress]) -> None:
        """inherited: peers that an earlier driver knew; protected as long as this one runs."""
        self._guard = guard
        self._inherited = frozenset(inherited)
        self._by_network: dict[Vni, frozenset[HostAddress]] = {}
        self._installed: frozenset[HostAddress] | None = None  # None: must be created
        self._problem: str | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Install the guard.  A failure is only logged."""
        with self._lock:
            self._bring_up()

    def hosts_changed(self, vni: Vni, hosts: Sequence[HostAddress]) -> None:
        """Take the other hosts that now have endpoints of the network."""
        with self._lock:
            if hosts:
                self._by_network[vni] = frozenset(hosts)
            else:
                self._by_network.pop(vni, None)
            self._bring_up()

    def check(self) -> None:
        """Check whether the guard still exists: others may flush the whole packet filter."""
        with self._lock:
            installed = self._installed
        try:  # without the lock: Joins wait for it
            whole = self._guard.dropped() is not None
        except LinkError:
            whole = False  # installing reports why
        with self._lock:
            # If it changed in the meantime, it existed then, and the next check comes soon.
            if not whole and installed is not None and installed is self._installed:
                log.warning("the guard (nftables table slim) was removed: it is made anew; does "
                            "something flush the rule set?")
                self._installed = None
            self._bring_up()

    def dropped(self) -> int | None:
        """Return how many packets the guard has dropped; None: it is missing.  Error: LinkError."""
        with self._lock:
            if self._problem is not None or self._installed is None:
                return None
        return self._guard.dropped()

    def state(self) -> str:
        """Describe the guard in a word or two, for the status."""
        with self._lock:
            if self._problem is not None or self._installed is None:
                return f"missing: {self._problem}"
            hosts = len(self._installed)
        try:
            dropped = self._guard.dropped()
        except LinkError as error:
            return f"unknown: {error}"
        if dropped is None:
            return "missing: somebody has removed it; the next check restores it"
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
