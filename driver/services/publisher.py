"""Owns what the kernel maps say about networks: the directory's feed, and who gets broadcasts.

It must not know where the feed comes from, nor what a map looks like.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from driver.errors import DatapathError
from driver.model import Endpoint, EndpointId, HostId, Vni
from driver.services.ports import Datapath, Veth

log = logging.getLogger(__name__)


@dataclass
class _NetworkView:
    """One network as the maps have it."""

    remotes: dict[EndpointId, Endpoint] = field(default_factory=dict)  # of all hosts
    local: dict[EndpointId, int] = field(default_factory=dict)  # host's ends' ifindexes
    hosts: Counter[IPv4Address] = field(default_factory=Counter)  # others', by their endpoints
    flood: tuple[tuple[IPv4Address, ...], tuple[int, ...]] = ((), ())  # as last written


class Publisher:
    """Is the directory's listener, and stands between the use cases and the datapath.

    Both know who is on a network: the feed the other hosts, the use cases this host's links.
    """

    def __init__(self, datapath: Datapath, host: HostId) -> None:
        self._datapath = datapath
        self._host = host
        self._lock = threading.RLock()
        self._networks: dict[Vni, _NetworkView] = {}
        # What a driver before this one entered.  A network's first snapshot says what of it
        # still holds; until then connections go on using it.
        self._inherited: dict[Vni, list[Endpoint]] = {}
        for endpoint in datapath.list_remotes():
            self._inherited.setdefault(endpoint.vni, []).append(endpoint)

    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        """See ports.Datapath; and the link gets the network's broadcasts."""
        with self._lock:
            self._datapath.publish_endpoint(endpoint, veth)
            view = self._networks.setdefault(endpoint.vni, _NetworkView())
            view.local[endpoint.id] = veth.host_ifindex
            try:
                self._flood(endpoint.vni)
            except DatapathError:
                del view.local[endpoint.id]
                self._datapath.withdraw_endpoint(endpoint, veth.host_ifindex)
                raise

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        """See ports.Datapath.  `host_ifindex` 0: the link is gone already."""
        with self._lock:
            view = self._networks.setdefault(endpoint.vni, _NetworkView())
            known = view.local.get(endpoint.id, 0)
            self._datapath.withdraw_endpoint(endpoint, host_ifindex or known)
            view.local.pop(endpoint.id, None)
            self._flood(endpoint.vni)
            self._drop_empty(endpoint.vni)

    def snapshot(self, vni: Vni, endpoints: Sequence[Endpoint]) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            view = self._networks.setdefault(vni, _NetworkView())
            self._disinherit(vni, endpoints)
            wanted = {endpoint.id: endpoint for endpoint in endpoints}
            for endpoint_id in view.remotes.keys() - wanted.keys():
                self._delete(view, endpoint_id)
            for endpoint in endpoints:
                self._put(view, endpoint)
            self._flood_or_log(vni)
            self._drop_empty(vni)

    def put(self, endpoint: Endpoint) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            self._put(self._networks.setdefault(endpoint.vni, _NetworkView()), endpoint)
            self._flood_or_log(endpoint.vni)

    def removed(self, vni: Vni, endpoint_id: EndpointId) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            view = self._networks.get(vni)
            if view is not None:
                self._delete(view, endpoint_id)
                self._flood_or_log(vni)
                self._drop_empty(vni)

    def followed(self, vnis: Collection[Vni]) -> None:
        """Forget what a driver before entered for networks other than these."""
        with self._lock:
            for vni in self._inherited.keys() - set(vnis):
                self._disinherit(vni, ())

    def directory_size(self) -> int:
        """Count of endpoints, of all hosts, that the maps know."""
        with self._lock:
            return sum(len(view.remotes) for view in self._networks.values())

    def _disinherit(self, vni: Vni, endpoints: Sequence[Endpoint]) -> None:
        held = set().union(*map(_places, endpoints))
        for endpoint in self._inherited.pop(vni, ()):
            if not _places(endpoint) <= held:
                try:
                    self._datapath.delete_remote(endpoint)
                except DatapathError as error:
                    log.error("%s stays in the directory: %s", endpoint.address, error)

    def _put(self, view: _NetworkView, endpoint: Endpoint) -> None:
        # What only matters within its host does not make it another entry.
        entry = replace(endpoint, sandbox_key="")
        before = view.remotes.get(endpoint.id)
        if before == entry:
            return
        try:
            if before is not None:
                self._datapath.delete_remote(before)
            self._datapath.put_remote(entry)
        except DatapathError as error:
            # The feed cannot do anything about it.  Not entered: tried again with the
            # next snapshot; until then connections to it take the overlay path or fail.
            self._forget(view, endpoint.id)
            log.error("endpoint %.12s is not in the directory: %s", endpoint.id, error)
            return
        self._forget(view, endpoint.id)
        view.remotes[endpoint.id] = entry
        if entry.host != self._host:
            view.hosts[entry.underlay] += 1

    def _delete(self, view: _NetworkView, endpoint_id: EndpointId) -> None:
        before = self._forget(view, endpoint_id)
        if before is None:
            return
        try:
            self._datapath.delete_remote(before)
        except DatapathError as error:
            log.error("endpoint %.12s stays in the directory: %s", endpoint_id, error)

    def _forget(self, view: _NetworkView, endpoint_id: EndpointId) -> Endpoint | None:
        before = view.remotes.pop(endpoint_id, None)
        if before is not None and before.host != self._host:
            view.hosts[before.underlay] -= 1
            if not view.hosts[before.underlay]:
                del view.hosts[before.underlay]
        return before

    def _flood_or_log(self, vni: Vni) -> None:
        try:
            self._flood(vni)
        except DatapathError as error:
            log.error("network %d: broadcasts do not reach all of it: %s", vni, error)

    def _flood(self, vni: Vni) -> None:
        view = self._networks[vni]
        flood = (tuple(sorted(view.hosts)), tuple(sorted(set(view.local.values()))))
        if flood != view.flood:
            self._datapath.set_flood(vni, *flood)
            view.flood = flood

    def _drop_empty(self, vni: Vni) -> None:
        view = self._networks[vni]
        if not view.remotes and not view.local and view.flood == ((), ()):
            del self._networks[vni]


def _places(endpoint: Endpoint) -> set[tuple[object, ...]]:
    """What the directory says of an endpoint: one entry for each of its addresses."""
    return {(address.ip, endpoint.underlay, endpoint.port, endpoint.mac)
            for address in (endpoint.address, endpoint.address6) if address is not None}
