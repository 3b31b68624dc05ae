"""Owns what the kernel maps say about networks: the directory's feed, and who gets broadcasts.

It must not know where the feed comes from, nor what a map looks like.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from itertools import islice

from driver.errors import DatapathError
from driver.model import Endpoint, EndpointId, HostId, Vni
from driver.services.packed import OTHERS, pack, places, places_of, unpack
from driver.services.ports import Datapath, Veth

log = logging.getLogger(__name__)

CHUNK = 500  # endpoints of a snapshot at a time: Docker's calls come in between
PAUSE_S = 0.001  # in which they do


@dataclass
class _NetworkView:
    """One network as the maps have it."""

    remotes: dict[EndpointId, bytes] = field(default_factory=dict)  # of all hosts, packed
    local: dict[EndpointId, int] = field(default_factory=dict)  # host's ends' ifindexes
    hosts: Counter[IPv4Address] = field(default_factory=Counter)  # others', by their endpoints
    # Who gets broadcasts has changed, or is not known: a driver before may have written it.
    flood_changed: bool = True
    missing: dict[EndpointId, Endpoint] = field(default_factory=dict)  # could not be entered


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
        self._inherited: dict[Vni, set[bytes]] = {}
        for endpoint in datapath.list_remotes():
            self._inherited.setdefault(endpoint.vni, set()).update(places(endpoint))
        self._flooded = set(datapath.list_floods())  # by a driver before
        # What may be in the maps and should not: its removal, or its entry, failed.
        self._surplus: dict[Vni, set[bytes]] = {}

    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        """See ports.Datapath; and the link gets the network's broadcasts.

        After an error some of it may have been done: withdraw_endpoint undoes it.
        """
        with self._lock:
            self._datapath.publish_endpoint(endpoint, veth)
            view = self._networks.setdefault(endpoint.vni, _NetworkView())
            view.local[endpoint.id] = veth.host_ifindex
            view.flood_changed = True
            self._flood(endpoint.vni)

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        """See ports.Datapath.  `host_ifindex` 0: the link is gone already."""
        with self._lock:
            view = self._networks.setdefault(endpoint.vni, _NetworkView())
            known = view.local.get(endpoint.id, 0)
            self._datapath.withdraw_endpoint(endpoint, host_ifindex or known)
            if view.local.pop(endpoint.id, None) is not None:
                view.flood_changed = True
            self._flood(endpoint.vni)
            self._drop_empty(endpoint.vni)

    def snapshot(self, vni: Vni, endpoints: Iterable[Endpoint]) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            # What is not confirmed by the end.  Until then `retry` must not touch it.
            stale = self._inherited.pop(vni, set()) | self._surplus.pop(vni, set())
        seen: set[EndpointId] = set()
        following = iter(endpoints)
        while chunk := list(islice(following, CHUNK)):
            with self._lock:
                view = self._networks.setdefault(vni, _NetworkView())
                for endpoint in chunk:
                    seen.add(endpoint.id)
                    stale.difference_update(places(endpoint) if stale else ())
                    self._put(view, endpoint)
            if len(chunk) == CHUNK:
                time.sleep(PAUSE_S)
        with self._lock:
            view = self._networks.setdefault(vni, _NetworkView())
            for endpoint_id in {*view.remotes, *view.missing} - seen:
                gone = self._forget(view, endpoint_id)
                stale.update(places(gone) if gone is not None else ())
            # Another endpoint may be where one was that has gone.
            self._surplus.setdefault(vni, set()).update(stale)
            self._clear_surplus(vni)
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
                for place in self._inherited.pop(vni):
                    self._delete_entry(unpack(place))
            for vni in self._flooded - set(vnis):
                self._networks.setdefault(vni, _NetworkView())
                self._flood_or_log(vni)
                self._drop_empty(vni)
            self._flooded.clear()

    def retry(self) -> None:
        """Try again what the maps refused.  For a caller that comes at intervals."""
        with self._lock:
            for vni in {*self._surplus, *self._networks}:
                view = self._networks.setdefault(vni, _NetworkView())
                self._clear_surplus(vni)
                for endpoint in list(view.missing.values()):
                    self._put(view, endpoint)
                self._flood_or_log(vni)
                self._drop_empty(vni)

    def directory_size(self) -> int:
        """Count of endpoints, of all hosts, that the maps know."""
        with self._lock:
            return sum(len(view.remotes) for view in self._networks.values())

    def _clear_surplus(self, vni: Vni) -> None:
        surplus = self._surplus.pop(vni, None)
        if not surplus:
            return
        for packed in self._networks[vni].remotes.values():
            surplus.difference_update(places_of(packed))
        for place in surplus:
            self._delete_entry(unpack(place))

    def _put(self, view: _NetworkView, endpoint: Endpoint) -> None:
        packed = pack(endpoint, others=endpoint.host != self._host)
        before = view.remotes.get(endpoint.id)
        if before == packed:
            return
        earlier = self._forget(view, endpoint.id)
        try:
            # Before what it replaces goes: no connect() in between finds neither.
            self._datapath.put_remote(endpoint)
            if earlier is not None:
                self._delete_entry(_outdated(earlier, endpoint))
        except DatapathError as error:
            if earlier is not None:
                self._delete_entry(earlier)
            # The feed cannot do anything about it.  Until it is tried again, connections to
            # it take the overlay path or fail; some of it may have been entered.
            view.missing[endpoint.id] = endpoint
            self._surplus.setdefault(endpoint.vni, set()).update(places(endpoint))
            log.error("endpoint %.12s is not in the directory: %s", endpoint.id, error)
            return
        view.remotes[endpoint.id] = packed
        if endpoint.host != self._host:
            view.hosts[endpoint.underlay] += 1
            view.flood_changed |= view.hosts[endpoint.underlay] == 1

    def _delete(self, view: _NetworkView, endpoint_id: EndpointId) -> None:
        before = self._forget(view, endpoint_id)
        if before is not None:
            self._delete_entry(before)

    def _delete_entry(self, entry: Endpoint) -> None:
        try:
            self._datapath.delete_remote(entry)
        except DatapathError as error:
            self._surplus.setdefault(entry.vni, set()).update(places(entry))
            log.error("%s stays in the directory: %s", entry.address or entry.address6, error)

    def _forget(self, view: _NetworkView, endpoint_id: EndpointId) -> Endpoint | None:
        view.missing.pop(endpoint_id, None)
        packed = view.remotes.pop(endpoint_id, None)
        if packed is None:
            return None
        before = unpack(packed, endpoint_id)
        if packed[0] & OTHERS:
            view.hosts[before.underlay] -= 1
            if not view.hosts[before.underlay]:
                del view.hosts[before.underlay]
                view.flood_changed = True
        return before

    def _flood_or_log(self, vni: Vni) -> None:
        try:
            self._flood(vni)
        except DatapathError as error:
            log.error("network %d: broadcasts do not reach all of it: %s", vni, error)

    def _flood(self, vni: Vni) -> None:
        view = self._networks[vni]
        if view.flood_changed:
            self._datapath.set_flood(vni, sorted(view.hosts), sorted(set(view.local.values())))
            view.flood_changed = False

    def _drop_empty(self, vni: Vni) -> None:
        view = self._networks[vni]
        if not (view.remotes or view.local or view.missing or view.flood_changed):
            del self._networks[vni]


def _outdated(before: Endpoint, after: Endpoint) -> Endpoint:
    """What of `before` is not written over when `after` is entered."""
    def kept(one: IPv4Interface | IPv6Interface | None,
             other: IPv4Interface | IPv6Interface | None) -> bool:
        return one is not None and other is not None and one.ip == other.ip

    named_alike = (before.underlay, before.port) == (after.underlay, after.port)
    return replace(
        before,
        address=(None if named_alike and kept(before.address, after.address) else before.address),
        address6=None if kept(before.address6, after.address6) else before.address6)
