"""Models what the maps say of one network, and how certain that is: a value without effects.

Thread-safe by its owner's lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from driver.model import EndpointId, HostAddress, Vni
from driver.services.directory.entries import Entry


class Doubt(NamedTuple):
    """An entry whose record is missing, although nobody has said that the endpoint is gone."""

    revision: int  # of the newest list or change that lacked it
    since_s: float  # monotonic


UNCOMPARED: Final = Doubt(0, 0.0)  # from an earlier driver, and no list has been read since


@dataclass
class NetworkView:
    """One network as the maps have it."""

    vni: Vni
    entries: dict[EndpointId, Entry] = field(default_factory=dict)  # of all hosts
    # The endpoint entered at an address: a number for IPv4, bytes for IPv6.
    holders: dict[int | bytes, EndpointId] = field(default_factory=dict)
    doubts: dict[EndpointId, Doubt] = field(default_factory=dict)  # of entries
    unreadable: set[EndpointId] = field(default_factory=set)  # records, with or without an entry
    # On record, but another endpoint that is on record has their address.
    rivals: dict[EndpointId, Entry] = field(default_factory=dict)
    refused: dict[EndpointId, Entry] = field(default_factory=dict)  # could not be entered
    # On record, but this host's underlay does not reach their host's: not entered.
    out_of_reach: set[EndpointId] = field(default_factory=set)
    # Places that may be in the maps but should not be: removing or entering them failed.
    surplus: set[Entry] = field(default_factory=set)
    local: dict[EndpointId, int] = field(default_factory=dict)  # ifindexes of the host's ends
    hosts: Counter[HostAddress] = field(default_factory=Counter)  # others -> endpoint count
    # The broadcast targets have changed, or are unknown: an earlier driver may have written them.
    flood_changed: bool = True

    def enter(self, endpoint_id: EndpointId, entry: Entry) -> None:
        """Note an entry that was made."""
        self.entries[endpoint_id] = entry
        for address in entry.addresses():
            self.holders[address] = endpoint_id
        if entry.others:
            underlay = entry.underlay
            self.hosts[underlay] += 1
            self.flood_changed |= self.hosts[underlay] == 1

    def forget(self, endpoint_id: EndpointId) -> Entry | None:
        """Undo `enter`; return what was entered."""
        self.refused.pop(endpoint_id, None)
        self.doubts.pop(endpoint_id, None)
        entry = self.entries.pop(endpoint_id, None)
        if entry is None:
            return None
        for address in entry.addresses():
            if self.holders.get(address) == endpoint_id:
                del self.holders[address]
        if entry.others:
            underlay = entry.underlay
            self.hosts[underlay] -= 1
            if not self.hosts[underlay]:
                del self.hosts[underlay]
                self.flood_changed = True
        return entry

    def others_at(self, entry: Entry, endpoint_id: EndpointId) -> list[EndpointId]:
        """Return the other endpoints that are entered at these addresses."""
        found = (self.holders.get(address) for address in entry.addresses())
        return [holder for holder in dict.fromkeys(found)
                if holder is not None and holder != endpoint_id]

    def is_sure(self, endpoint_id: EndpointId) -> bool:
        """Return whether a readable record confirms the entry, as far as is known."""
        return endpoint_id not in self.doubts and endpoint_id not in self.unreadable

    def doubt(self, endpoint_ids: Iterable[EndpointId], revision: int, now_s: float) -> None:
        """Note which of these have an entry but no record as of a revision."""
        shared: dict[float, Doubt] = {}  # not one tuple each: there may be a hundred thousand
        for endpoint_id in endpoint_ids:
            if endpoint_id in self.entries:
                known = self.doubts.get(endpoint_id, UNCOMPARED)
                since_s = now_s if known is UNCOMPARED else known.since_s
                self.doubts[endpoint_id] = shared.setdefault(since_s, Doubt(revision, since_s))

    def freed_rivals(self) -> Iterator[EndpointId]:
        """Yield the rivals whose address no other endpoint has on record any more."""
        for endpoint_id, entry in list(self.rivals.items()):
            if not any(map(self.is_sure, self.others_at(entry, endpoint_id))):
                yield endpoint_id

    @property
    def empty(self) -> bool:
        """Whether nothing is known of the network."""
        return not (self.entries or self.local or self.refused or self.rivals
                    or self.out_of_reach or self.unreadable or self.surplus
                    or self.flood_changed)
