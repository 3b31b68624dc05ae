"""Publishes each network's endpoints and broadcast targets from the directory's feed to the maps.

An entry is removed when its host, or whoever removed that host, says so, or when another endpoint
has its address or port by now.  A missing or unreadable record is no reason to remove it
(docs/decisions/0009).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from itertools import islice

from driver.errors import DatapathError
from driver.model import Endpoint, EndpointId, HostId, Vni
from driver.services.directory.packed import (
    OTHERS,
    name_of,
    pack,
    places,
    places_of,
    underlay_of,
    unpack,
)
from driver.services.directory.view import UNCOMPARED, Doubt, NetworkView
from driver.services.peers.index import PeerIndex
from driver.services.ports import Datapath, Left, Said, Unreadable, Veth

log = logging.getLogger(__name__)

CHUNK = 500  # endpoints of a snapshot at a time: Docker's calls get a turn in between
PAUSE_S = 0.001  # the time for that turn


@dataclass(frozen=True)
class HostDoubts:
    """Entries of one host (U) whose records are missing."""

    count: int
    revision: int  # of the newest list or change that lacked them
    since_s: float  # of the oldest one, monotonic


@dataclass(frozen=True)
class Uncertain:
    """All entries without a readable record."""

    hosts: dict[IPv4Address, HostDoubts]
    unreadable: tuple[EndpointId, ...]  # with unreadable records; their entries stay unchanged
    contested: int  # records whose address another endpoint has on record, too
    unlisted: int  # entries of networks that are not on record for this host

    @property
    def missing(self) -> int:
        """Count of entries whose records are missing."""
        return sum(found.count for found in self.hosts.values())


class Publisher:
    """Listens to the directory, and stands between the use cases and the datapath.

    Each knows a part of a network: the feed the other hosts, the use cases this host's links.
    """

    def __init__(self, datapath: Datapath, host: HostId, peers: PeerIndex | None = None, *,
                 underlay: IPv4Address | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """peers: is told which endpoints the maps have.  underlay: this host's address."""
        self._datapath = datapath
        self._peers = peers or PeerIndex()
        self._host = host
        self._clock = clock
        self._lock = threading.RLock()
        self._networks: dict[Vni, NetworkView] = {}
        self._followed: set[Vni] | None = None  # None: not known yet
        # Entries in doubt, by host (U) and endpoint port.
        self._doubtful: dict[tuple[IPv4Address, int], tuple[Vni, EndpointId]] = {}
        # What may be in the maps but should not be: removing or entering it failed.
        self._surplus: dict[Vni, set[bytes]] = {}
        # Called when one of this host's own endpoints is missing in etcd.
        self.on_own_missing: Callable[[], None] = lambda: None
        # Called with each address that an endpoint turns out to have.
        self.on_address: Callable[[Vni, IPv4Address], None] = lambda _vni, _address: None
        # Entries of an earlier driver stay until they are known to be wrong.
        for endpoint in datapath.list_remotes():
            view = self._networks.setdefault(endpoint.vni, NetworkView())
            inherited = _inherited_id(endpoint)
            view.enter(inherited, pack(endpoint, others=endpoint.underlay != underlay))
            view.doubts[inherited] = UNCOMPARED
            self._peers.put(endpoint, others=endpoint.underlay != underlay)
            # Flooding is as that driver left it, including this host's own links.
            view.flood_changed = False
        self._flooded = set(datapath.list_floods())  # by an earlier driver

    # ----------------------------------------------------------- this host's links
    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        """See ports.Datapath.  The link also gets the network's broadcasts.

        After an error, part of it may have been done: withdraw_endpoint undoes it.
        """
        with self._lock:
            self._datapath.publish_endpoint(endpoint, veth)
            view = self._networks.setdefault(endpoint.vni, NetworkView())
            view.local[endpoint.id] = veth.host_ifindex
            view.flood_changed = True
            # If the map is full, packets to one address still arrive, and this is retried.
            self._flood_or_log(endpoint.vni)

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        """See ports.Datapath.  `host_ifindex` 0: the link is already gone."""
        with self._lock:
            view = self._networks.setdefault(endpoint.vni, NetworkView())
            known = view.local.get(endpoint.id, 0)
            self._datapath.withdraw_endpoint(endpoint, host_ifindex or known)
            if view.local.pop(endpoint.id, None) is not None:
                view.flood_changed = True
            self._flood_or_log(endpoint.vni)
            self._drop_empty(endpoint.vni)

    # ---------------------------------------------------------------- the feed
    def snapshot(self, vni: Vni, said: Iterable[Said], revision: int) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            # What remains unconfirmed at the end is stale.  Until then `retry` must not touch it.
            stale = self._surplus.pop(vni, set())
        seen: set[EndpointId] = set()
        unreadable: set[EndpointId] = set()
        # Their address is another endpoint's, which may be gone by the rest of the list.
        contested: dict[EndpointId, bytes] = {}
        following = iter(said)
        while chunk := list(islice(following, CHUNK)):
            with self._lock:
                view = self._networks.setdefault(vni, NetworkView())
                for one in chunk:
                    if isinstance(one, Left):
                        self._left(view, one.endpoint)
                    elif isinstance(one, Unreadable):
                        unreadable.add(one.endpoint_id)
                        self._unreadable(view, one.endpoint_id)
                    else:
                        seen.add(one.id)
                        stale.difference_update(places(one) if stale else ())
                        packed = self._packed(one)
                        if not self._put(view, one, packed):
                            contested[one.id] = packed
            if len(chunk) == CHUNK:
                time.sleep(PAUSE_S)
        with self._lock:
            view = self._networks.setdefault(vni, NetworkView())
            view.unreadable &= unreadable
            for endpoint_id in {*view.rivals, *view.refused} - seen:
                view.rivals.pop(endpoint_id, None)
                view.refused.pop(endpoint_id, None)
            lacking = list(view.entries.keys() - seen - unreadable)
        for start in range(0, len(lacking), CHUNK):
            with self._lock:
                view = self._networks.setdefault(vni, NetworkView())
                self._doubt(vni, view, lacking[start:start + CHUNK], revision)
            time.sleep(PAUSE_S)
        with self._lock:
            view = self._networks.setdefault(vni, NetworkView())
            for endpoint_id, packed in contested.items():
                self._put_or_contest(view, unpack(packed, endpoint_id), packed)
            # Another endpoint may now be where a removed one was.
            self._surplus.setdefault(vni, set()).update(stale)
            self._clear_surplus(vni)
            self._after_change(vni)

    def put(self, endpoint: Endpoint) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            view = self._networks.setdefault(endpoint.vni, NetworkView())
            self._put_or_contest(view, endpoint, self._packed(endpoint))
            self._after_change(endpoint.vni)

    def left(self, vni: Vni, endpoint: Endpoint) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            view = self._networks.get(vni)
            if view is not None:
                self._left(view, endpoint)
                self._after_change(vni)

    def missing(self, vni: Vni, endpoint_id: EndpointId, revision: int) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            view = self._networks.get(vni)
            if view is not None:
                view.unreadable.discard(endpoint_id)
                view.rivals.pop(endpoint_id, None)
                view.refused.pop(endpoint_id, None)
                self._doubt(vni, view, [endpoint_id], revision)
                self._after_change(vni)

    def unreadable(self, vni: Vni, endpoint_id: EndpointId) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            self._unreadable(self._networks.setdefault(vni, NetworkView()), endpoint_id)

    def unfollowed(self, vni: Vni) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            view = self._networks.get(vni)
            if view is not None:
                view.rivals.clear()
                view.unreadable.clear()
                for endpoint_id in [*view.entries, *view.refused]:
                    self._delete(view, endpoint_id)
                self._after_change(vni)

    def followed(self, vnis: Collection[Vni]) -> None:
        """See ports.DirectoryListener.

        An earlier driver's entries for other networks are removed if no container of this host is
        in the network: then nobody uses them.  Else it is this host's record that is missing.
        """
        with self._lock:
            self._followed = set(vnis)
            # Without an interface of this host, nobody sends there or hears what others send.
            unused = (set(self._networks) | self._flooded) - self._datapath.local_networks()
            for vni in unused:
                view = self._networks.setdefault(vni, NetworkView())
                if vni not in self._followed:
                    for endpoint_id in [one for one, doubt in view.doubts.items()
                                        if doubt is UNCOMPARED]:
                        self._delete(view, endpoint_id)
                if vni in self._flooded:
                    view.flood_changed = True
                self._after_change(vni)
            self._flooded -= unused

    # ---------------------------------------------------------------- what is in doubt
    def uncertain(self) -> Uncertain:
        """Return all entries without a readable record."""
        hosts: dict[IPv4Address, list[Doubt]] = defaultdict(list)
        unreadable: list[EndpointId] = []
        unlisted = contested = 0
        with self._lock:
            for vni, view in self._networks.items():
                lacks_list = self._followed is not None and vni not in self._followed
                for endpoint_id, doubt in view.doubts.items():
                    if doubt is not UNCOMPARED:
                        hosts[underlay_of(view.entries[endpoint_id])].append(doubt)
                    elif lacks_list:
                        unlisted += 1
                unreadable += view.unreadable
                contested += len(view.rivals)
        return Uncertain({underlay: HostDoubts(
            len(found), max(doubt.revision for doubt in found),
            min(doubt.since_s for doubt in found)) for underlay, found in hosts.items()},
            tuple(sorted(unreadable)), contested, unlisted)

    def settle(self, answers: Mapping[IPv4Address, int],
               read: Callable[[Vni], Iterable[Said]]) -> Counter[IPv4Address]:
        """Remove doubtful entries of hosts (U) that had all endpoints on record as of a revision.

        Return how many entries of each host were removed.  read: lists a network as of now, which
        may be later than the feed.
        Error: whatever `read` raises; the call must then be repeated.
        """
        with self._lock:
            asked = {vni: found for vni, view in self._networks.items() if (found := {
                endpoint_id: doubt for endpoint_id, doubt in view.doubts.items()
                if doubt is not UNCOMPARED and doubt.revision <= answers.get(
                    underlay_of(view.entries[endpoint_id]), 0)})}
        gone: Counter[IPv4Address] = Counter()
        for vni, found in asked.items():
            on_record: set[EndpointId] = set()
            recorded: set[bytes] = set()
            some_unreadable = False
            for one in read(vni):
                if isinstance(one, Unreadable):
                    on_record.add(one.endpoint_id)
                    some_unreadable = True
                elif not isinstance(one, Left):
                    on_record.add(one.id)
                    recorded.update(places(one))
            with self._lock:
                view = self._networks.get(vni)
                for endpoint_id, doubt in found.items():
                    # In the meantime it may be back on record, or missing again.
                    if view is None or view.doubts.get(endpoint_id) != doubt:
                        continue
                    if endpoint_id in on_record or (_is_inherited(endpoint_id) and (
                            some_unreadable
                            or not recorded.isdisjoint(places_of(view.entries[endpoint_id])))):
                        continue
                    gone[underlay_of(view.entries[endpoint_id])] += 1
                    self._delete(view, endpoint_id)
                if view is not None:
                    self._after_change(vni)
        return gone

    # ---------------------------------------------------------------- upkeep
    def retry(self) -> None:
        """Retry what the maps refused.  To be called at intervals."""
        with self._lock:
            for vni in {*self._surplus, *self._networks}:
                view = self._networks.setdefault(vni, NetworkView())
                self._clear_surplus(vni)
                for endpoint_id, packed in list(view.refused.items()):
                    self._put_or_contest(view, unpack(packed, endpoint_id), packed)
                self._after_change(vni)

    def directory_size(self) -> int:
        """Count the endpoints, of all hosts, that the maps know."""
        with self._lock:
            return sum(len(view.entries) for view in self._networks.values())

    def _clear_surplus(self, vni: Vni) -> None:
        surplus = self._surplus.pop(vni, None)
        if not surplus:
            return
        for packed in self._networks[vni].entries.values():
            surplus.difference_update(places_of(packed))
        for place in surplus:
            self._delete_entry(unpack(place))

    def _packed(self, endpoint: Endpoint) -> bytes:
        return pack(endpoint, others=endpoint.host != self._host)

    def _put_or_contest(self, view: NetworkView, endpoint: Endpoint, packed: bytes) -> None:
        if self._put(view, endpoint, packed):
            return
        if endpoint.id not in view.rivals:
            log.warning("endpoint %.12s (%s) has an address on record that endpoint %.12s of "
                        "network %d has on record, too: that one keeps it until its host deletes "
                        "it", endpoint.id, endpoint.address or endpoint.address6,
                        view.others_at(packed, endpoint.id)[0], endpoint.vni)
        self._delete(view, endpoint.id)  # it is no longer where it was before
        view.rivals[endpoint.id] = packed

    def _put(self, view: NetworkView, endpoint: Endpoint, packed: bytes) -> bool:
        """Enter it; False: another endpoint has its address, as far as is known."""
        view.unreadable.discard(endpoint.id)
        if view.entries.get(endpoint.id) == packed:
            if endpoint.id in view.doubts:
                self._trust(view, endpoint.id)
            return True
        others = view.others_at(packed, endpoint.id)
        if any(view.is_sure(other) for other in others):
            return False
        view.rivals.pop(endpoint.id, None)
        # An address, or a host's port, has one endpoint: whichever was there before is gone.
        outdated = [gone for other in (*others, endpoint.id)
                    if (gone := self._forget(view, other)) is not None]
        self._end_port_holder(endpoint)
        try:
            # Before what it replaces is removed: no connect() in between finds neither.
            self._datapath.put_remote(endpoint)
        except DatapathError as error:
            # The feed cannot do anything about it.  Until the retry, connections to the
            # endpoint take the overlay path or fail; part of it may have been entered.
            for gone in outdated:
                self._delete_entry(gone)
            view.refused[endpoint.id] = packed
            self._surplus.setdefault(endpoint.vni, set()).update(places(endpoint))
            log.error("endpoint %.12s is not in the directory: %s", endpoint.id, error)
            return True
        for gone in outdated:
            self._delete_entry(_outdated(gone, endpoint))
        view.enter(endpoint.id, packed)
        self._peers.put(endpoint, others=bool(packed[0] & OTHERS))
        if endpoint.address is not None:
            self.on_address(endpoint.vni, endpoint.address.ip)
        return True

    def _end_port_holder(self, endpoint: Endpoint) -> None:
        found = self._doubtful.get((endpoint.underlay, endpoint.port))
        if found is not None and found != (endpoint.vni, endpoint.id):
            vni, endpoint_id = found
            self._delete(self._networks[vni], endpoint_id)

    def _left(self, view: NetworkView, endpoint: Endpoint) -> None:
        view.unreadable.discard(endpoint.id)
        view.rivals.pop(endpoint.id, None)
        known_places = places(endpoint)
        # An inherited entry has no endpoint id: it is the same if its content is the same.
        for endpoint_id in (endpoint.id, *view.others_at(self._packed(endpoint), endpoint.id)):
            packed = view.entries.get(endpoint_id)
            if endpoint_id == endpoint.id or (
                    packed is not None and _is_inherited(endpoint_id)
                    and set(places_of(packed)) <= set(known_places)):
                self._delete(view, endpoint_id)

    def _unreadable(self, view: NetworkView, endpoint_id: EndpointId) -> None:
        view.unreadable.add(endpoint_id)
        view.rivals.pop(endpoint_id, None)
        self._trust(view, endpoint_id)  # it is on record

    def _doubt(self, vni: Vni, view: NetworkView, endpoint_ids: Collection[EndpointId],
               revision: int) -> None:
        before = view.doubts.keys() & endpoint_ids
        uncompared = {one for one in before if view.doubts[one] is UNCOMPARED}
        view.doubt(endpoint_ids, revision, self._clock())
        if any(not view.entries[one][0] & OTHERS for one in endpoint_ids if one in view.doubts):
            self.on_own_missing()
        for endpoint_id in [one for one in endpoint_ids if one in view.doubts
                            and (one not in before or one in uncompared)]:
            endpoint = unpack(view.entries[endpoint_id], endpoint_id)
            if not endpoint.port or endpoint.address is None:
                continue
            if self._datapath.has_lost_its_port(endpoint):
                self._delete(view, endpoint_id)
            else:
                self._doubtful[endpoint.underlay, endpoint.port] = vni, endpoint_id

    def _trust(self, view: NetworkView, endpoint_id: EndpointId) -> None:
        if view.doubts.pop(endpoint_id, None) is not None:
            self._doubtful.pop(name_of(view.entries[endpoint_id]), None)

    def _delete(self, view: NetworkView, endpoint_id: EndpointId) -> None:
        before = self._forget(view, endpoint_id)
        if before is not None:
            self._delete_entry(before)

    def _delete_entry(self, entry: Endpoint) -> None:
        try:
            self._datapath.delete_remote(entry)
        except DatapathError as error:
            self._surplus.setdefault(entry.vni, set()).update(places(entry))
            log.error("%s stays in the directory: %s", entry.address or entry.address6, error)

    def _forget(self, view: NetworkView, endpoint_id: EndpointId) -> Endpoint | None:
        if endpoint_id in view.doubts:
            self._trust(view, endpoint_id)
        packed = view.forget(endpoint_id)
        if packed is None:
            return None
        before = unpack(packed, endpoint_id)
        self._peers.remove(before, others=bool(packed[0] & OTHERS))
        return before

    def _after_change(self, vni: Vni) -> None:
        view = self._networks[vni]
        for endpoint_id in view.freed_rivals():
            packed = view.rivals.pop(endpoint_id)
            self._put_or_contest(view, unpack(packed, endpoint_id), packed)
        self._flood_or_log(vni)
        self._drop_empty(vni)

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
        if self._networks[vni].empty:
            del self._networks[vni]


def _inherited_id(entry: Endpoint) -> EndpointId:
    """Make a substitute for the id, which the maps lack: one per address of a network."""
    address = entry.address or entry.address6
    return EndpointId(f"~{address.ip}" if address is not None else "~")


def _is_inherited(endpoint_id: EndpointId) -> bool:
    return endpoint_id.startswith("~")


def _outdated(before: Endpoint, after: Endpoint) -> Endpoint:
    """Return the part of `before` that entering `after` does not overwrite."""
    def kept(one: IPv4Interface | IPv6Interface | None,
             other: IPv4Interface | IPv6Interface | None) -> bool:
        return one is not None and other is not None and one.ip == other.ip

    named_alike = (before.underlay, before.port) == (after.underlay, after.port)
    return replace(
        before,
        address=(None if named_alike and kept(before.address, after.address) else before.address),
        address6=None if kept(before.address6, after.address6) else before.address6)
