"""Writes what is known of networks to the maps, and repeats what the maps refused.

An entry goes when its endpoint is said to be gone, or when another one has its address or port.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from ipaddress import IPv4Address

from driver.errors import DatapathError
from driver.model import Endpoint, EndpointId, HostAddress, Vni, by_family
from driver.services.directory.entries import Entry
from driver.services.directory.view import UNCOMPARED, NetworkView
from driver.services.peers.index import PeerIndex
from driver.services.ports import Datapath
from driver.work.ledger import Ledger, Page

log = logging.getLogger(__name__)


class DirectoryMaps:
    """The views of all networks, and the maps that follow them.

    All calls but `tend`'s are made with `lock` held.
    """

    def __init__(self, datapath: Datapath, peers: PeerIndex, ledger: Ledger, *,
                 own_missing: Callable[[], None], address: Callable[[Vni, IPv4Address], None],
                 reaches: Callable[[HostAddress], bool] = lambda _underlay: True,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """peers: is told which endpoints the maps have.  clock: seconds, monotonic.

        own_missing: called when one of this host's own endpoints is missing in etcd.
        address: called with each address that an endpoint turns out to have.
        reaches: whether this host's underlay has the family of another one's.
        """
        self._datapath = datapath
        self._peers = peers
        self._own_missing = own_missing
        self._address = address
        self._reaches = reaches
        self._clock = clock
        self.lock = threading.RLock()
        self.views: dict[Vni, NetworkView] = {}
        # Entries in doubt, by host (U) and endpoint port.
        self._doubtful: dict[tuple[HostAddress, int], tuple[Vni, EndpointId]] = {}
        self._refused: Page[Vni, None] = ledger.page(
            "directory of network", lambda vni, _none: self.tend(vni))

    def inherit(self, endpoint: Endpoint, *, others: bool) -> None:
        """Take over an entry of an earlier driver: it stays until it is known to be wrong."""
        view, inherited = self.view(endpoint.vni), _inherited_id(endpoint)
        view.enter(inherited, Entry.of(endpoint, others=others))
        view.doubts[inherited] = UNCOMPARED
        self._peers.put(endpoint, others=others)
        # Flooding is as that driver left it, including this host's own links.
        view.flood_changed = False

    def view(self, vni: Vni) -> NetworkView:
        """Return the network's view, a new one if nothing is known of it."""
        return self.views.setdefault(vni, NetworkView(vni))

    def put_or_contest(self, view: NetworkView, endpoint: Endpoint, entry: Entry) -> None:
        """Enter it, or note that another endpoint has its address on record, too."""
        if self.put(view, endpoint, entry):
            return
        endpoint_id = endpoint.id
        if endpoint_id not in view.rivals:
            log.warning("endpoint %.12s (%s) has an address on record that endpoint %.12s of "
                        "network %d has on record, too: that one keeps it until its host deletes "
                        "it", endpoint_id, endpoint.address or endpoint.address6,
                        view.others_at(entry, endpoint_id)[0], view.vni)
        self.delete(view, endpoint_id)  # it is no longer where it was before
        view.rivals[endpoint_id] = entry

    def put(self, view: NetworkView, endpoint: Endpoint, entry: Entry) -> bool:
        """Enter it; False: another endpoint has its address, as far as is known.

        entry: the endpoint's.
        """
        endpoint_id = endpoint.id
        view.unreadable.discard(endpoint_id)
        if entry.others and not self._reaches(entry.underlay):
            self._keep_out(view, endpoint_id, entry)
            return True
        view.out_of_reach.discard(endpoint_id)
        if view.entries.get(endpoint_id) == entry:
            if endpoint_id in view.doubts:
                self._trust(view, endpoint_id)
            return True
        others = view.others_at(entry, endpoint_id)
        if any(view.is_sure(other) for other in others):
            return False
        view.rivals.pop(endpoint_id, None)
        # An address, or a host's port, has one endpoint: whichever was there before is gone.
        outdated = [gone for other in (*others, endpoint_id)
                    if (gone := self._forget(view, other)) is not None]
        self._end_port_holder(view.vni, endpoint_id, entry)
        try:
            # Before what it replaces is removed: no connect() in between finds neither.
            self._datapath.put_remote(endpoint)
        except DatapathError as error:
            # The feed cannot do anything about it.  Until it is entered, connections to the
            # endpoint take the overlay path or fail; part of it may have been entered.
            for gone in outdated:
                self._delete_entry(view, gone)
            view.refused[endpoint_id] = entry
            self._repeat(view, entry.places(), error)
            log.error("endpoint %.12s is not in the directory: %s", endpoint_id, error)
            return True
        for gone in outdated:
            self._delete_entry(view, gone.outdated_by(entry))
        view.enter(endpoint_id, entry)
        self._peers.put(endpoint, others=entry.others)
        if endpoint.address is not None:
            self._address(view.vni, endpoint.address.ip)
        return True

    def left(self, view: NetworkView, endpoint_id: EndpointId, entry: Entry) -> None:
        """Remove an endpoint that is said to be gone."""
        view.unreadable.discard(endpoint_id)
        view.out_of_reach.discard(endpoint_id)
        view.rivals.pop(endpoint_id, None)
        places = set(entry.places())
        # An inherited entry has no endpoint id: it is the same if its content is the same.
        for other in (endpoint_id, *view.others_at(entry, endpoint_id)):
            known = view.entries.get(other)
            if other == endpoint_id or (known is not None and is_inherited(other)
                                        and places.issuperset(known.places())):
                self.delete(view, other)

    def unreadable(self, view: NetworkView, endpoint_id: EndpointId) -> None:
        """Note that a record is there, but cannot be read."""
        view.unreadable.add(endpoint_id)
        view.rivals.pop(endpoint_id, None)
        self._trust(view, endpoint_id)  # it is on record

    def doubt(self, view: NetworkView, endpoint_ids: Collection[EndpointId], revision: int) -> None:
        """Note which of these have no record as of a revision."""
        before = view.doubts.keys() & endpoint_ids
        uncompared = {one for one in before if view.doubts[one] is UNCOMPARED}
        view.doubt(endpoint_ids, revision, self._clock())
        if any(not view.entries[one].others for one in endpoint_ids if one in view.doubts):
            self._own_missing()
        for endpoint_id in [one for one in endpoint_ids if one in view.doubts
                            and (one not in before or one in uncompared)]:
            entry = view.entries[endpoint_id]
            if not entry.name[1] or entry.address is None:
                continue
            if self._datapath.has_lost_its_port(entry.endpoint(endpoint_id)):
                self.delete(view, endpoint_id)
            else:
                self._doubtful[entry.name] = view.vni, endpoint_id

    def delete(self, view: NetworkView, endpoint_id: EndpointId) -> None:
        """Remove the endpoint's entry, if it has one."""
        before = self._forget(view, endpoint_id)
        if before is not None:
            self._delete_entry(view, before)

    def flood_or_log(self, vni: Vni) -> None:
        """Write the network's broadcast targets if they have changed."""
        view = self.views[vni]
        if not view.flood_changed:
            return
        try:
            hosts = sorted(filter(self._reaches, view.hosts), key=by_family)
            self._datapath.set_flood(vni, hosts, sorted(set(view.local.values())))
            view.flood_changed = False
        except DatapathError as error:
            self._refused.note(vni, None, error)
            log.error("network %d: broadcasts do not reach all of it: %s", vni, error)

    def after_change(self, vni: Vni) -> None:
        """Do what follows from a change of the network's entries."""
        view = self.views[vni]
        for endpoint_id in view.freed_rivals():
            entry = view.rivals.pop(endpoint_id)
            self.put_or_contest(view, entry.endpoint(endpoint_id), entry)
        self.flood_or_log(vni)
        self.drop_empty(vni)

    def clear_surplus(self, view: NetworkView) -> None:
        """Remove what is in the maps but should not be; another endpoint may be there by now."""
        surplus, view.surplus = view.surplus, set()
        if not surplus:
            return
        for entry in view.entries.values():
            surplus.difference_update(entry.places())
        for place in surplus:
            self._delete_entry(view, place)

    def drop_empty(self, vni: Vni) -> None:
        """Forget the network if nothing is known of it."""
        if self.views[vni].empty:
            del self.views[vni]

    def tend(self, vni: Vni) -> None:
        """Repeat what the maps refused of a network; what they refuse again is outstanding."""
        with self.lock:
            if vni not in self.views:
                return
            view = self.views[vni]
            self.clear_surplus(view)
            for endpoint_id, entry in list(view.refused.items()):
                self.put_or_contest(view, entry.endpoint(endpoint_id), entry)
            self.after_change(vni)

    def _keep_out(self, view: NetworkView, endpoint_id: EndpointId, entry: Entry) -> None:
        """Leave out an endpoint that nothing can be sent to, and what it has taken the place of."""
        view.rivals.pop(endpoint_id, None)
        view.out_of_reach.add(endpoint_id)
        for other in (endpoint_id, *view.others_at(entry, endpoint_id)):
            if other == endpoint_id or not view.is_sure(other):
                self.delete(view, other)

    def _end_port_holder(self, vni: Vni, endpoint_id: EndpointId, entry: Entry) -> None:
        found = self._doubtful.get(entry.name)
        if found is not None and found != (vni, endpoint_id):
            self.delete(self.views[found[0]], found[1])

    def _trust(self, view: NetworkView, endpoint_id: EndpointId) -> None:
        if view.doubts.pop(endpoint_id, None) is not None:
            self._doubtful.pop(view.entries[endpoint_id].name, None)

    def _forget(self, view: NetworkView, endpoint_id: EndpointId) -> Entry | None:
        if endpoint_id in view.doubts:
            self._trust(view, endpoint_id)
        entry = view.forget(endpoint_id)
        if entry is not None:
            self._peers.remove(entry.endpoint(endpoint_id), others=entry.others)
        return entry

    def _delete_entry(self, view: NetworkView, entry: Entry) -> None:
        try:
            self._datapath.delete_remote(entry.endpoint())
        except DatapathError as error:
            self._repeat(view, entry.places(), error)
            log.error("%s stays in the directory: %s",
                      entry.address or entry.endpoint().address6, error)

    def _repeat(self, view: NetworkView, surplus: Collection[Entry], error: DatapathError) -> None:
        view.surplus.update(surplus)
        self._refused.note(view.vni, None, error)


def _inherited_id(entry: Endpoint) -> EndpointId:
    """Make a substitute for the id, which the maps lack: one per address of a network."""
    address = entry.address or entry.address6
    return EndpointId(f"~{address.ip}" if address is not None else "~")


def is_inherited(endpoint_id: EndpointId) -> bool:
    """Say whether it is the substitute for an id that an earlier driver knew."""
    return endpoint_id.startswith("~")
