"""Knows what the endpoints of this host's networks are called, on all hosts.

It hears what the directory's listener hears, and stands before it.  An endpoint counts as long as
the directory has it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from driver.model import Endpoint, EndpointId, HostAddress, Vni
from driver.services.names.spelling import usable
from driver.services.ports import DirectoryListener, Left, Said, Unreadable

FOUND_MAX: Final = 48
Key = str | IPv4Address | IPv6Address  # what an endpoint is found by: a name, or an address


@dataclass(frozen=True)
class Named:
    """An endpoint, its names, and where it is."""

    names: tuple[str, ...]
    address: IPv4Address | None
    address6: IPv6Address | None
    underlay: HostAddress  # of its host


    def found_by(self) -> set[Key]:
        """Return its names and addresses."""
        return {*self.names, *(each for each in (self.address, self.address6) if each is not None)}


class _Network:
    """The named endpoints of one network; guarded by the table's lock."""

    def __init__(self) -> None:
        self.named: dict[EndpointId, Named] = {}
        self.by_key: dict[Key, list[EndpointId]] = {}  # to choose from at random

    def note(self, endpoint_id: EndpointId, named: Named) -> None:
        self.named[endpoint_id] = named
        for key in named.found_by():
            self.by_key.setdefault(key, []).append(endpoint_id)

    def forget(self, endpoint_id: EndpointId) -> None:
        named = self.named.pop(endpoint_id, None)
        for key in named.found_by() if named is not None else ():
            self.by_key[key].remove(endpoint_id)
            if not self.by_key[key]:
                del self.by_key[key]


class NameTable:
    """A DirectoryListener that hands everything on.  Thread-safe."""

    def __init__(self, listener: DirectoryListener,
                 is_known: Callable[[Vni, EndpointId], bool]) -> None:
        """is_known: says whether the directory has the endpoint."""
        self._listener = listener
        self._is_known = is_known
        self._lock = threading.Lock()  # never held during calls to others
        self._networks: dict[Vni, _Network] = {}

    def find(self, vni: Vni, key: Key) -> list[Named]:
        """Return the network's endpoints of a name, as `spelling.spelled` spells it, or address.

        Of more than FOUND_MAX as many, chosen at random: no program reads more.
        """
        with self._lock:
            network = self._networks.get(vni)
            if network is None:
                return []
            members = network.by_key.get(key, [])
            chosen = members if len(members) <= FOUND_MAX else random.sample(members, FOUND_MAX)
            found = [(each, network.named[each]) for each in chosen]
        return [each for endpoint_id, each in found if self._is_known(vni, endpoint_id)]

    def all(self, vni: Vni) -> list[Named]:
        """Return the network's endpoints that have a name."""
        with self._lock:
            network = self._networks.get(vni)
            found = [] if network is None else list(network.named.items())
        return [each for endpoint_id, each in found if self._is_known(vni, endpoint_id)]

    # -------------------------------------------------- ports.DirectoryListener
    def snapshot(self, vni: Vni, said: Iterable[Said], revision: int) -> None:
        """See ports.DirectoryListener."""
        seen: set[EndpointId] = set()
        self._listener.snapshot(vni, self._hear(vni, said, seen), revision)
        with self._lock:
            network = self._networks.get(vni)
            unseen = set() if network is None else network.named.keys() - seen
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
            self._networks.pop(vni, None)
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
        named = Named(usable(endpoint.names), endpoint.address.ip if endpoint.address else None,
                      endpoint.address6.ip if endpoint.address6 else None, endpoint.underlay)
        with self._lock:  # for both steps, else a name that stays would be missing in between
            network = self._networks.setdefault(endpoint.vni, _Network())
            if network.named.get(endpoint.id) != named:
                network.forget(endpoint.id)
                if named.names:
                    network.note(endpoint.id, named)

    def _forget(self, vni: Vni, endpoint_id: EndpointId) -> None:
        with self._lock:
            network = self._networks.get(vni)
            if network is not None:
                network.forget(endpoint_id)
