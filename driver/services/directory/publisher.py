"""Publishes each network's endpoints and broadcast targets from the directory's feed to the maps.

An entry is removed when its host, or whoever removed that host, says so, or when another endpoint
has its address or port by now.  A missing or unreadable record is no reason to remove it
(docs/decisions/0009).
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import islice

from driver.model import Endpoint, EndpointId, HostAddress, HostId, Vni
from driver.services.directory.entries import Entry
from driver.services.directory.maps import DirectoryMaps, is_inherited
from driver.services.directory.view import UNCOMPARED, Doubt
from driver.services.peers.index import PeerIndex
from driver.services.ports import Datapath, Left, Said, Unreadable, Veth
from driver.work.ledger import Ledger

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

    hosts: dict[HostAddress, HostDoubts]
    unreadable: tuple[EndpointId, ...]  # with unreadable records; their entries stay unchanged
    contested: int  # records whose address another endpoint has on record, too
    unlisted: int  # entries of networks that are not on record for this host
    out_of_reach: int  # records of hosts whose underlay has another family than this one's

    @property
    def missing(self) -> int:
        """Count of entries whose records are missing."""
        return sum(found.count for found in self.hosts.values())


class Publisher:
    """Listens to the directory, and stands between the use cases and the datapath.

    Each knows a part of a network: the feed the other hosts, the use cases this host's links.
    """

    def __init__(self, datapath: Datapath, host: HostId, peers: PeerIndex | None = None, *,
                 underlay: HostAddress | None = None, ledger: Ledger | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """peers: is told which endpoints the maps have.  underlay: this host's address.

        ledger: repeats what the maps refused; None: nobody does.  clock: seconds, monotonic.
        """
        self._datapath = datapath
        self._host = host
        # Called when one of this host's own endpoints is missing in etcd.
        self.on_own_missing: Callable[[], None] = lambda: None
        # Called with each address that an endpoint turns out to have.
        self.on_address: Callable[[Vni, IPv4Address], None] = lambda _vni, _address: None
        self._maps = DirectoryMaps(
            datapath, peers or PeerIndex(), ledger or Ledger(), clock=clock,
            own_missing=self._own_missing, address=self._address,
            reaches=lambda other: underlay is None or other.version == underlay.version)
        self._lock = self._maps.lock
        self._followed: set[Vni] | None = None  # None: not known yet
        for endpoint in datapath.list_remotes():
            self._maps.inherit(endpoint, others=endpoint.underlay != underlay)
        self._flooded = set(datapath.list_floods())  # by an earlier driver

    # ----------------------------------------------------------- this host's links
    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        """See ports.Datapath.  The link also gets the network's broadcasts.

        After an error, part of it may have been done: withdraw_endpoint undoes it.
        """
        with self._lock:
            self._datapath.publish_endpoint(endpoint, veth)
            view = self._maps.view(endpoint.vni)
            view.local[endpoint.id] = veth.host_ifindex
            view.flood_changed = True
            # If the map is full, packets to one address still arrive, and this is repeated.
            self._maps.flood_or_log(endpoint.vni)

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        """See ports.Datapath.  `host_ifindex` 0: the link is already gone."""
        with self._lock:
            view = self._maps.view(endpoint.vni)
            known = view.local.get(endpoint.id, 0)
            self._datapath.withdraw_endpoint(endpoint, host_ifindex or known)
            if view.local.pop(endpoint.id, None) is not None:
                view.flood_changed = True
            self._maps.flood_or_log(endpoint.vni)
            self._maps.drop_empty(endpoint.vni)

    # ---------------------------------------------------------------- the feed
    def snapshot(self, vni: Vni, said: Iterable[Said], revision: int) -> None:
        """See ports.DirectoryListener."""
        maps = self._maps
        with self._lock:
            view = maps.view(vni)
            # What remains unconfirmed at the end is stale.  Until then nobody must remove it.
            stale, view.surplus = view.surplus, set()
        seen: set[EndpointId] = set()
        unreadable: set[EndpointId] = set()
        # Their address is another endpoint's, which may be gone by the rest of the list.
        contested: dict[EndpointId, Entry] = {}
        following = iter(said)
        while chunk := list(islice(following, CHUNK)):
            with self._lock:
                view = maps.view(vni)
                for one in chunk:
                    if isinstance(one, Left):
                        maps.left(view, one.endpoint.id, self._entry(one.endpoint))
                    elif isinstance(one, Unreadable):
                        unreadable.add(one.endpoint_id)
                        maps.unreadable(view, one.endpoint_id)
                    else:
                        seen.add(one.id)
                        entry = self._entry(one)
                        stale.difference_update(entry.places() if stale else ())
                        if not maps.put(view, one, entry):
                            contested[one.id] = entry
            if len(chunk) == CHUNK:
                time.sleep(PAUSE_S)
        with self._lock:
            view = maps.view(vni)
            view.unreadable &= unreadable
            view.out_of_reach &= seen
            for endpoint_id in {*view.rivals, *view.refused} - seen:
                view.rivals.pop(endpoint_id, None)
                view.refused.pop(endpoint_id, None)
            lacking = list(view.entries.keys() - seen - unreadable)
        for start in range(0, len(lacking), CHUNK):
            with self._lock:
                maps.doubt(maps.view(vni), lacking[start:start + CHUNK], revision)
            time.sleep(PAUSE_S)
        with self._lock:
            view = maps.view(vni)
            for endpoint_id, entry in contested.items():
                maps.put_or_contest(view, entry.endpoint(endpoint_id), entry)
            view.surplus |= stale
            maps.clear_surplus(view)
            maps.after_change(vni)

    def put(self, endpoint: Endpoint) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            self._maps.put_or_contest(self._maps.view(endpoint.vni), endpoint,
                                      self._entry(endpoint))
            self._maps.after_change(endpoint.vni)

    def left(self, vni: Vni, endpoint: Endpoint) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            view = self._maps.views.get(vni)
            if view is not None:
                self._maps.left(view, endpoint.id, self._entry(endpoint))
                self._maps.after_change(vni)

    def missing(self, vni: Vni, endpoint_id: EndpointId, revision: int) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            view = self._maps.views.get(vni)
            if view is not None:
                view.unreadable.discard(endpoint_id)
                view.out_of_reach.discard(endpoint_id)
                view.rivals.pop(endpoint_id, None)
                view.refused.pop(endpoint_id, None)
                self._maps.doubt(view, [endpoint_id], revision)
                self._maps.after_change(vni)

    def unreadable(self, vni: Vni, endpoint_id: EndpointId) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            self._maps.unreadable(self._maps.view(vni), endpoint_id)

    def unfollowed(self, vni: Vni) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            view = self._maps.views.get(vni)
            if view is not None:
                view.rivals.clear()
                view.unreadable.clear()
                view.out_of_reach.clear()
                for endpoint_id in [*view.entries, *view.refused]:
                    self._maps.delete(view, endpoint_id)
                self._maps.after_change(vni)

    def followed(self, vnis: Collection[Vni]) -> None:
        """See ports.DirectoryListener.

        An earlier driver's entries for other networks are removed if no container of this host is
        in the network: then nobody uses them.  Else it is this host's record that is missing.
        """
        with self._lock:
            self._followed = set(vnis)
            # Without an interface of this host, nobody sends there or hears what others send.
            unused = (set(self._maps.views) | self._flooded) - self._datapath.local_networks()
            for vni in unused:
                view = self._maps.view(vni)
                if vni not in self._followed:
                    for endpoint_id in [one for one, doubt in view.doubts.items()
                                        if doubt is UNCOMPARED]:
                        self._maps.delete(view, endpoint_id)
                if vni in self._flooded:
                    view.flood_changed = True
                self._maps.after_change(vni)
            self._flooded -= unused

    # ---------------------------------------------------------------- what is in doubt
    def uncertain(self) -> Uncertain:
        """Return all entries without a readable record."""
        hosts: dict[HostAddress, list[Doubt]] = defaultdict(list)
        unreadable: list[EndpointId] = []
        unlisted = contested = out_of_reach = 0
        with self._lock:
            for vni, view in self._maps.views.items():
                lacks_list = self._followed is not None and vni not in self._followed
                for endpoint_id, doubt in view.doubts.items():
                    if doubt is not UNCOMPARED:
                        hosts[view.entries[endpoint_id].underlay].append(doubt)
                    elif lacks_list:
                        unlisted += 1
                unreadable += view.unreadable
                contested += len(view.rivals)
                out_of_reach += len(view.out_of_reach)
        return Uncertain({underlay: HostDoubts(
            len(found), max(doubt.revision for doubt in found),
            min(doubt.since_s for doubt in found)) for underlay, found in hosts.items()},
            tuple(sorted(unreadable)), contested, unlisted, out_of_reach)

    def settle(self, answers: Mapping[HostAddress, int],
               read: Callable[[Vni], Iterable[Said]]) -> Counter[HostAddress]:
        """Remove doubtful entries of hosts (U) that had all endpoints on record as of a revision.

        Return how many entries of each host were removed.  read: lists a network as of now, which
        may be later than the feed.
        Error: whatever `read` raises; the call must then be repeated.
        """
        with self._lock:
            asked = {vni: found for vni, view in self._maps.views.items() if (found := {
                endpoint_id: doubt for endpoint_id, doubt in view.doubts.items()
                if doubt is not UNCOMPARED and doubt.revision <= answers.get(
                    view.entries[endpoint_id].underlay, 0)})}
        gone: Counter[HostAddress] = Counter()
        for vni, found in asked.items():
            on_record: set[EndpointId] = set()
            recorded: set[Entry] = set()
            some_unreadable = False
            for one in read(vni):
                if isinstance(one, Unreadable):
                    on_record.add(one.endpoint_id)
                    some_unreadable = True
                elif not isinstance(one, Left):
                    on_record.add(one.id)
                    recorded.update(self._entry(one).places())
            with self._lock:
                view = self._maps.views.get(vni)
                for endpoint_id, doubt in found.items():
                    # In the meantime it may be back on record, or missing again.
                    if view is None or view.doubts.get(endpoint_id) != doubt:
                        continue
                    if endpoint_id in on_record or (is_inherited(endpoint_id) and (
                            some_unreadable
                            or not recorded.isdisjoint(view.entries[endpoint_id].places()))):
                        continue
                    gone[view.entries[endpoint_id].underlay] += 1
                    self._maps.delete(view, endpoint_id)
                if view is not None:
                    self._maps.after_change(vni)
        return gone

    def has(self, vni: Vni, endpoint_id: EndpointId) -> bool:
        """Return whether the maps have an entry of this endpoint."""
        with self._lock:
            view = self._maps.views.get(vni)
            return view is not None and endpoint_id in view.entries

    def local_size(self) -> int:
        """Count the endpoints of this host that have an interface."""
        with self._lock:
            return sum(len(view.local) for view in self._maps.views.values())

    def sizes(self) -> dict[Vni, int]:
        """Count the endpoints, of all hosts, by network."""
        with self._lock:
            return {vni: len(view.entries) for vni, view in self._maps.views.items()}

    def directory_size(self) -> int:
        """Count the endpoints, of all hosts, that the maps know."""
        with self._lock:
            return sum(len(view.entries) for view in self._maps.views.values())

    # The two functions may be set later.
    def _own_missing(self) -> None:
        self.on_own_missing()

    def _address(self, vni: Vni, address: IPv4Address) -> None:
        self.on_address(vni, address)

    def _entry(self, endpoint: Endpoint) -> Entry:
        return Entry.of(endpoint, others=endpoint.host != self._host)
