"""Lists endpoint ports by host and network, and chooses probe targets from them."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from driver.model import Endpoint, HostAddress, Vni

CALLERS = 3  # our endpoints per target: a peer may not know the newest of them yet


@dataclass(frozen=True)
class Target:
    """An endpoint of another host, and the ports of our endpoints that may call it."""

    host: HostAddress
    port: int
    callers: tuple[int, ...]


class PeerIndex:
    """The index.  Thread-safe.  Two bytes per endpoint: there may be a hundred thousand."""

    def __init__(self, version: int = 4) -> None:
        """version: of IP, the underlay's; endpoints of hosts with the other one are no peers."""
        self.version = version
        self._lock = threading.Lock()
        # Oldest first.
        self._mine: dict[Vni, array[int]] = {}
        self._theirs: dict[HostAddress, dict[Vni, array[int]]] = {}
        self._hosts: frozenset[HostAddress] | None = frozenset()  # None: to be recomputed

    def put(self, endpoint: Endpoint, *, others: bool) -> None:
        """Enter an endpoint if it can use the host path; `others`: it is on another host."""
        underlay = endpoint.underlay
        if _on_host_path(endpoint) and underlay.version == self.version:
            with self._lock:
                networks = (self._theirs.setdefault(underlay, {}) if others
                            else self._mine)
                if endpoint.vni not in networks:
                    networks[endpoint.vni] = array("H")
                    self._hosts = None
                networks[endpoint.vni].append(endpoint.port)

    def remove(self, endpoint: Endpoint, *, others: bool) -> None:
        """Undo `put`.  Unknown: nothing to do."""
        underlay = endpoint.underlay
        if _on_host_path(endpoint) and underlay.version == self.version:
            with self._lock:
                networks = self._theirs.get(underlay, {}) if others else self._mine
                ports = networks.get(endpoint.vni, array("H"))
                with suppress(ValueError):
                    ports.remove(endpoint.port)
                if not ports:
                    networks.pop(endpoint.vni, None)
                    self._hosts = None
                if others and not networks:
                    self._theirs.pop(underlay, None)

    def hosts(self) -> frozenset[HostAddress]:
        """Return the other hosts that have a network in common with this one."""
        with self._lock:
            if self._hosts is None:
                self._hosts = frozenset(host for host, networks in self._theirs.items()
                                        if not self._mine.keys().isdisjoint(networks))
            return self._hosts

    def targets(self, host: HostAddress, suspects: Collection[int],
                choose: Callable[[int], int]) -> list[Target]:
        """Return the probe targets on a host: the known suspects, the oldest port and another one.

        choose: returns a number below the given one.
        """
        with self._lock:
            common = {vni: ports for vni, ports in self._theirs.get(host, {}).items()
                      if vni in self._mine}
            if not common:
                return []
            networks = list(common)
            chosen = {common[networks[0]][0]: networks[0]}
            start = choose(len(networks))
            for vni in networks[start:] + networks[:start]:
                at = choose(len(common[vni]))
                others = [port for port in common[vni][at:at + 2] + common[vni][:1]
                          if port not in chosen]
                if others:
                    chosen[others[0]] = vni
                    break
            for port in suspects:
                for vni, ports in common.items():
                    if port in ports:
                        chosen.setdefault(port, vni)
            return [Target(host, port, tuple(self._mine[vni][:CALLERS]))
                    for port, vni in chosen.items()]


def _on_host_path(endpoint: Endpoint) -> bool:
    return endpoint.port != 0 and endpoint.address is not None
