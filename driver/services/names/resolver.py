"""Answers questions by the names of containers, as the asking container may see them.

What Docker's name server may know better is left to it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from driver.model import Endpoint, EndpointId, NetworkId, Vni
from driver.services.names.spelling import spelled
from driver.services.names.table import Named, NameTable
from driver.services.ports import Container, NameReply, NamesView, Question, QuestionKind


@dataclass(frozen=True)
class _Asker:
    """A sandbox, by its endpoints in networks whose names are ours to give."""

    endpoints: tuple[EndpointId, ...]
    networks: tuple[tuple[NetworkId, Vni], ...]


@dataclass(frozen=True)
class _Dockers:
    """Names that Docker's server alone can tell, and whom and what they were found for."""

    asker: _Asker
    view: NamesView
    names: frozenset[str]


class Resolver:
    """Knows who asks, and what they may know.  Thread-safe; blocks for nothing."""

    def __init__(self, table: NameTable, view: Callable[[], NamesView],
                 has_names: Callable[[Endpoint], bool] = lambda _endpoint: True,
                 shuffle: Callable[[list[Named]], None] = random.shuffle) -> None:
        """view: what this host's Docker calls its containers, as last seen.

        has_names: says whether an endpoint's network has names.
        """
        self._table = table
        self._view = view
        self._has_names = has_names
        self._shuffle = shuffle
        self._lock = threading.Lock()
        self._askers: dict[str, _Asker] = {}
        self._dockers: dict[str, _Dockers] = {}  # by sandbox key

    def enter(self, sandbox_key: str, endpoints: Sequence[Endpoint]) -> bool:
        """Take note of a sandbox's endpoints; return whether it may ask for any names."""
        ours = [each for each in endpoints if self._has_names(each)]
        with self._lock:
            if not ours:
                self._askers.pop(sandbox_key, None)
                self._dockers.pop(sandbox_key, None)
                return False
            self._askers[sandbox_key] = _Asker(
                tuple(each.id for each in endpoints),
                tuple((each.network_id, each.vni) for each in ours))
        return True

    def leave(self, sandbox_key: str) -> None:
        """Undo `enter`."""
        with self._lock:
            self._askers.pop(sandbox_key, None)
            self._dockers.pop(sandbox_key, None)

    def resolve(self, sandbox_key: str, question: Question) -> NameReply | None:
        """Return the answer; None: Docker's name server is to be asked."""
        with self._lock:
            asker = self._askers.get(sandbox_key)
        if asker is None:
            return None
        if question.kind is QuestionKind.NAME:
            return self._reverse(asker, question)
        view = self._view()
        if question.name in self._known_to_docker(sandbox_key, asker, view):
            return None
        found = list({(each.address, each.address6): each
                      for each in self._find(asker, question.name, view)}.values())
        if not found:
            return None
        self._shuffle(found)
        wanted = {QuestionKind.ADDRESS: lambda each: each.address,
                  QuestionKind.ADDRESS6: lambda each: each.address6}.get(question.kind)
        return NameReply(tuple(address for each in found
                           if wanted is not None and (address := wanted(each)) is not None))

    def _find(self, asker: _Asker, name: str, view: NamesView) -> Iterator[Named]:
        for network_id, vni in asker.networks:
            yield from self._table.find(vni, name)
            network = spelled(view.networks.get(network_id, ""))
            if network and name.endswith(ending := f".{network}"):
                yield from self._table.find(vni, name.removesuffix(ending))

    def _known_to_docker(self, sandbox_key: str, asker: _Asker, view: NamesView) -> frozenset[str]:
        """Look for them once, and not for each question."""
        with self._lock:
            found = self._dockers.get(sandbox_key)
        if found is None or found.asker is not asker or found.view is not view:
            found = _Dockers(asker, view, _known_to_docker(asker, view))
            with self._lock:
                if self._askers.get(sandbox_key) is asker:  # it has not left meanwhile
                    self._dockers[sandbox_key] = found
        return found.names

    def _reverse(self, asker: _Asker, question: Question) -> NameReply | None:
        if question.address is None:
            return None
        for network_id, vni in asker.networks:
            for named in self._table.find(vni, question.address):
                network = spelled(self._view().networks.get(network_id, ""))
                # As Docker's: the container's name in its network.
                return NameReply(names=(f"{named.names[0]}.{network}." if network
                                    else f"{named.names[0]}.",))
        return None


def _known_to_docker(asker: _Asker, view: NamesView) -> frozenset[str]:
    """Return names that Docker's server alone can tell: links, and other networks of its host's."""
    own = next((each for each in view.containers
                if not each.names.keys().isdisjoint(asker.endpoints)), None)
    if own is None:
        return frozenset()
    ours = {network_id for network_id, _ in asker.networks}
    others = {view.network_of[each] for each in own.names if each in view.network_of} - ours
    names = frozenset(map(spelled, own.links))
    if not others:
        return names
    return names | frozenset(spelled(name) for each in view.containers if each is not own
                             for name in _names_in(each, view, others))


def _names_in(container: Container, view: NamesView, networks: set[NetworkId]) -> Iterator[str]:
    for endpoint_id, names in container.names.items():
        if view.network_of.get(endpoint_id) in networks:
            yield from names
