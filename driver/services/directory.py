"""Owns keeping the kernel's directory and flood lists equal to what the feed says.

It must not know where the feed comes from, nor how the maps look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from driver.model import Endpoint, EndpointId, HostId, Vni
from driver.services.ports import Datapath

Ifindexes = Callable[[Vni], Sequence[int]]  # host ends of the network's local endpoints


class DirectoryKeeper:
    """driver.services.ports.DirectoryListener for all networks.  Thread-safe.

    After an error in a call the feed lists again, and that snapshot repairs what was missed:
    so an endpoint counts as published only once the datapath has taken it.
    """

    def __init__(self, datapath: Datapath, host: HostId, local_ifindexes: Ifindexes) -> None:
        self._datapath = datapath
        self._host = host
        self._local_ifindexes = local_ifindexes
        self._lock = threading.RLock()
        self._published: dict[Vni, dict[EndpointId, Endpoint]] = {}
        self._flooded: dict[Vni, tuple[tuple[IPv4Address, ...], tuple[int, ...]]] = {}

    def snapshot(self, vni: Vni, endpoints: Sequence[Endpoint]) -> None:
        """Publish these, and withdraw everything else of the network."""
        with self._lock:
            wanted = {endpoint.id: endpoint for endpoint in endpoints}
            for endpoint_id in [i for i in self._known(vni) if i not in wanted]:
                self._withdraw(vni, endpoint_id, also=wanted)
            for endpoint in wanted.values():
                self._publish(endpoint)
            self._flood(vni)
            if not wanted:
                self._published.pop(vni, None)
                self._flooded.pop(vni, None)

    def put(self, endpoint: Endpoint) -> None:
        """Publish one, in place of what it was before."""
        with self._lock:
            self._publish(endpoint)
            self._flood(endpoint.vni)

    def removed(self, vni: Vni, endpoint_id: EndpointId) -> None:
        """Withdraw one; unknown: nothing to do."""
        with self._lock:
            self._withdraw(vni, endpoint_id, also={})
            self._flood(vni)

    def refresh_flood(self, vni: Vni) -> None:
        """A local endpoint came or went: bring the network's flood list up to date."""
        with self._lock:
            self._flood(vni)

    def endpoints(self, vni: Vni) -> list[Endpoint]:
        """Return what is published of a network."""
        with self._lock:
            return list(self._known(vni).values())

    def _known(self, vni: Vni) -> dict[EndpointId, Endpoint]:
        return self._published.get(vni, {})

    def _publish(self, endpoint: Endpoint) -> None:
        before = self._known(endpoint.vni).get(endpoint.id)
        if before == endpoint:
            return
        if before is not None and _entries(before) != _entries(endpoint):
            self._withdraw(endpoint.vni, endpoint.id, also={})
        self._datapath.put_remote(endpoint)
        self._published.setdefault(endpoint.vni, {})[endpoint.id] = endpoint

    def _withdraw(self, vni: Vni, endpoint_id: EndpointId, *,
                  also: dict[EndpointId, Endpoint]) -> None:
        """Remove an endpoint's entries, but not those that another has taken over."""
        endpoint = self._known(vni).get(endpoint_id)
        if endpoint is None:
            return
        self._datapath.delete_remote(endpoint)
        del self._published[vni][endpoint_id]
        # An address (or endpoint port) that was freed and given out again: the successor's
        # entry has the same key, and went with its predecessor's.
        for other in {**self._known(vni), **also}.values():
            if other.id != endpoint_id and _entries(other) & _entries(endpoint):
                self._datapath.put_remote(other)
                self._published.setdefault(vni, {})[other.id] = other

    def _flood(self, vni: Vni) -> None:
        hosts = tuple(sorted({e.underlay for e in self._known(vni).values()
                              if e.host != self._host}))
        ifindexes = tuple(sorted(self._local_ifindexes(vni)))
        if self._flooded.get(vni) != (hosts, ifindexes):
            self._datapath.set_flood(vni, hosts, ifindexes)
            self._flooded[vni] = (hosts, ifindexes)


def _entries(endpoint: Endpoint) -> set[object]:
    """What names an endpoint in the maps: its addresses, and (U, P)."""
    named: set[object] = {a.ip for a in (endpoint.address, endpoint.address6) if a is not None}
    if endpoint.port:
        named.add((endpoint.underlay, endpoint.port))
    return named
