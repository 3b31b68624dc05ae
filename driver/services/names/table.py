"""Knows what the endpoints of this host's networks are called, on all hosts.

It hears what the directory's listener hears, and stands before it.  An endpoint counts as long as
the directory has it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from driver.model import Endpoint, EndpointId, Vni
from driver.services.ports import DirectoryListener, Left, Said, Unreadable


@dataclass(frozen=True)
class Named:
    """An endpoint, its names, and where it is."""

    names: tuple[str, ...]
    address: IPv4Address | None
    address6: IPv6Address | None
    underlay: IPv4Address  # of its host


class NameTable:
    """A DirectoryListener that hands everything on.  Thread-safe."""

    def __init__(self, listener: DirectoryListener,
                 is_known: Callable[[Vni, EndpointId], bool]) -> None:
        """is_known: says whether the directory has the endpoint."""
        self._listener = listener
        self._is_known = is_known
        self._lock = threading.Lock()  # never held during calls to others
        self._named: dict[Vni, dict[EndpointId, Named]] = {}
        self._by_name: dict[Vni, defaultdict[str, set[EndpointId]]] = {}

    def find(self, vni: Vni, name: str) -> list[Named]:
        """Return the network's endpoints of this name, as `spelling.spelled` spells it."""
        with self._lock:
            named: dict[EndpointId, Named] = self._named.get(vni, {})
            found = [(each, named[each]) for each in self._names_in(vni).get(name, ())]
        return [each for endpoint_id, each in found if self._is_known(vni, endpoint_id)]

    def at(self, vni: Vni, address: IPv4Address | IPv6Address | None) -> list[Named]:
        """Return the network's endpoint at an address, if it has a name."""
        return [each for each in self.all(vni)
                if address is not None and address in (each.address, each.address6)]

    def all(self, vni: Vni) -> list[Named]:
        """Return the network's endpoints that have a name."""
        with self._lock:
            found = list(self._named.get(vni, {}).items())
        return [each for endpoint_id, each in found if self._is_known(vni, endpoint_id)]

    # -------------------------------------------------- ports.DirectoryListener
    def snapshot(self, vni: Vni, said: Iterable[Said], revision: int) -> None:
        """See ports.DirectoryListener."""
        seen: set[EndpointId] = set()
        self._listener.snapshot(vni, self._hear(vni, said, seen), revision)
        with self._lock:
            unseen = self._named.get(vni, {}).keys() - seen
        for endpoint_id in unseen:
            if not self._is_known(vni, endpoint_id):  # else it is in doubt, and kept
                self._forget(vni, endpoint_id)

    def put(self, endpoint: Endpoint) -> None:
        """See ports.DirectoryListener."""
        self._listener.put(endpoint)
        self._note(endpoint)

    def left(self, vni: Vni, endpoint: Endpoint) -> None:
        """See ports.DirectoryListener."""
        self._forget(vni, endpoint.id)
        self._listener.left(vni, endpoint)

    def missing(self, vni: Vni, endpoint_id: EndpointId, revision: int) -> None:
        """See ports.DirectoryListener."""
        self._listener.missing(vni, endpoint_id, revision)

    def unreadable(self, vni: Vni, endpoint_id: EndpointId) -> None:
        """See ports.DirectoryListener."""
        self._listener.unreadable(vni, endpoint_id)

    def unfollowed(self, vni: Vni) -> None:
        """See ports.DirectoryListener."""
        with self._lock:
            self._named.pop(vni, None)
            self._by_name.pop(vni, None)
        self._listener.unfollowed(vni)

    def followed(self, vnis: Collection[Vni]) -> None:
        """See ports.DirectoryListener."""
        self._listener.followed(vnis)

    def _hear(self, vni: Vni, said: Iterable[Said], seen: set[EndpointId]) -> Iterator[Said]:
        for one in said:
            yield one  # the listener has taken it when it asks for the next one
            if isinstance(one, Left):
                self._forget(vni, one.endpoint.id)
            elif isinstance(one, Unreadable):
                seen.add(one.endpoint_id)
            else:
                seen.add(one.id)
                self._note(one)

    def _note(self, endpoint: Endpoint) -> None:
        named = Named(endpoint.names, endpoint.address.ip if endpoint.address else None,
                      endpoint.address6.ip if endpoint.address6 else None, endpoint.underlay)
        with self._lock:
            if self._named.get(endpoint.vni, {}).get(endpoint.id) == named:
                return
        self._forget(endpoint.vni, endpoint.id)
        if not endpoint.names:
            return
        with self._lock:
            self._named.setdefault(endpoint.vni, {})[endpoint.id] = named
            by_name = self._by_name.setdefault(endpoint.vni, defaultdict(set))
            for name in endpoint.names:
                by_name[name].add(endpoint.id)

    def _names_in(self, vni: Vni) -> dict[str, set[EndpointId]]:
        return self._by_name.get(vni, defaultdict(set))

    def _forget(self, vni: Vni, endpoint_id: EndpointId) -> None:
        with self._lock:
            named = self._named.get(vni, {}).pop(endpoint_id, None)
            if named is None:
                return
            by_name = self._by_name[vni]
            for name in named.names:
                by_name[name].discard(endpoint_id)
                if not by_name[name]:
                    del by_name[name]
