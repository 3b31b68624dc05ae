"""Notices hosts whose underlay address is of the other family, IPv4 or IPv6, than this host's.

Nothing passes between the two: their endpoints are left out of the maps (services.directory).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from driver.model import Host, HostAddress, HostId
from driver.work.shown import some_of

log = logging.getLogger(__name__)


class Families:
    """Compares the hosts that have a lease with this one.  Thread-safe."""

    def __init__(self, underlay: HostAddress) -> None:
        """underlay: this host's."""
        self._underlay = underlay
        self._lock = threading.Lock()
        self._apart: dict[HostId, Host] = {}
        self._within: frozenset[HostAddress] = frozenset()

    def reaches(self, underlay: HostAddress) -> bool:
        """Return whether another host's address is of this host's family."""
        return underlay.version == self._underlay.version

    def hosts_changed(self, live: Mapping[HostId, Host]) -> None:
        """Take all hosts that have a lease, at first and at each change."""
        apart = {host.id: host for host in live.values() if not self.reaches(host.underlay)}
        with self._lock:
            before, self._apart = self._apart, apart
            self._within = frozenset(host.underlay for host in live.values()
                                     if self.reaches(host.underlay))
        for host in apart.values():
            if before.get(host.id) != host:
                log.warning("host %s has an underlay of IPv%d, this host one of IPv%d (%s): their "
                            "containers do not reach each other; name an address of the same "
                            "family with --underlay on both", _named(host), host.underlay.version,
                            self._underlay.version, self._underlay)
        for host_id in before.keys() - apart.keys():
            if host_id in live:
                log.info("host %s has an underlay of this host's family now", _named(live[host_id]))

    def hosts(self) -> frozenset[HostAddress]:
        """Return the addresses of all hosts that have a lease and this host's family."""
        with self._lock:
            return self._within

    def describe(self) -> str:
        """Name the hosts of the other family, for the status; "": there is none."""
        with self._lock:
            apart = sorted(self._apart.values(), key=lambda each: (each.name, each.id))
        if not apart:
            return ""
        named = some_of([_named(each) for each in apart], ", ")
        return (f"{len(apart)} out of reach, whose underlay is IPv{apart[0].underlay.version} and "
                f"this host's IPv{self._underlay.version} ({named})")


def _named(host: Host) -> str:
    return f"{host.name} ({host.underlay})"
