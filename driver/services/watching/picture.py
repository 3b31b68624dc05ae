"""Puts together what is shown of one host or of the cluster: the answer of Slim.Picture.

It asks nobody: what is not there yet comes with a later question.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from driver.model import Host, HostId, Vni
from driver.services.ports import (
    Address,
    EndpointSeen,
    HostSeen,
    NetworkSeen,
    PairRate,
    PathRate,
    ReasonRate,
)
from driver.services.watching import states
from driver.services.watching.samples import Samples
from driver.services.watching.sharing import Sharing
from driver.services.watching.states import HostState

PAIRS_MAX: Final = 2000
ENDPOINTS_MAX: Final = 5000
REFUSALS_MAX: Final = 200


@dataclass(frozen=True)
class Refusal:
    """A connection, or several alike, that was refused or dropped."""

    at: float  # seconds since the epoch
    host: HostId
    container: str
    name: str  # the counter's
    peer: str  # address and port
    count: int


@dataclass(frozen=True)
class Peer:
    """Who has an address, as this host's directory knows it."""

    name: str
    underlay: Address | None  # of its host


@dataclass(frozen=True)
class Of:
    """Something that a host tells of."""

    host: HostId


@dataclass(frozen=True)
class EndpointOf(Of):
    """An endpoint on its host."""

    endpoint: EndpointSeen


@dataclass(frozen=True)
class PairOf(Of):
    """A pair, as one of its two hosts tells of it."""

    pair: PairRate


@dataclass(frozen=True)
class ReasonOf(Of):
    """A counter of a host."""

    reason: ReasonRate


@dataclass(frozen=True)
class PathOf(Of):
    """What a host has on one path."""

    path: PathRate


@dataclass(frozen=True)
class Picture:
    """Everything; the most important first where it is cut."""

    at: float  # seconds since the epoch
    host: HostId  # which answers
    every_s: float  # between this host's samples; 0: there was none yet
    ready: bool  # all hosts that may answer have rates
    hosts: tuple[HostState, ...]
    networks: tuple[NetworkSeen, ...]
    endpoints: tuple[EndpointOf, ...]
    pairs: tuple[PairOf, ...]
    reasons: tuple[ReasonOf, ...]
    paths: tuple[PathOf, ...]
    refusals: tuple[Refusal, ...]
    more_pairs: int
    more_endpoints: int


@dataclass(frozen=True)
class Known:
    """What this host knows without asking."""

    me: Host
    hosts: Callable[[], Sequence[HostSeen]]
    peer: Callable[[Vni, Address], Peer]
    refusals: Callable[[], Sequence[Refusal]]  # newest first


class Pictures:
    """The use case.  Thread-safe."""

    def __init__(self, known: Known, samples: Samples, sharing: Sharing, *,
                 clock: Callable[[], float] = time.monotonic,
                 wall: Callable[[], float] = time.time) -> None:
        """clock, wall: seconds; monotonic, and since the epoch."""
        self._known = known
        self._samples = samples
        self._sharing = sharing
        self._clock = clock
        self._wall = wall

    def take(self, cluster: bool) -> Picture:
        """Return the picture of this host, or of the cluster."""
        summary, problem = self._samples.ask()
        seen = self._known.hosts()
        me = self._known.me
        if cluster:
            others = self._sharing.ask()
            found = [states.here(me, summary, problem or others.problem), *states.all_others(
                me.id, seen, others, self._clock())]
        else:
            found = [states.here(me, summary, problem)]
        ready = bool(summary and summary.ready) and all(
            each.summary is not None and each.summary.ready for each in found
            if each.state == states.OK) and not any(
            each.state == states.UNKNOWN and each.age_s is None for each in found)
        pairs = _most_important(found)
        endpoints = _endpoints(found)
        endpoints += self._peers(pairs, endpoints, seen)
        if not cluster:
            named = {each.host for each in endpoints}
            found += [states.not_asked(each) for each in seen
                      if each.host.id in named - {me.id}]
        told = [(each.id, each.summary) for each in found if each.summary is not None]
        return Picture(
            self._wall(), me.id, summary.every_s if summary else 0.0, ready,
            tuple(sorted(found, key=lambda each: (each.id != me.id, each.name, each.id))),
            _networks(found), tuple(endpoints[:ENDPOINTS_MAX]), tuple(pairs[:PAIRS_MAX]),
            tuple(ReasonOf(host, each) for host, one in told for each in one.reasons),
            tuple(PathOf(host, each) for host, one in told for each in one.paths),
            tuple(self._known.refusals()[:REFUSALS_MAX]),
            sum(one.more_pairs for _, one in told) + max(0, len(pairs) - PAIRS_MAX),
            sum(one.more_endpoints for _, one in told) + max(
                0, len(endpoints) - ENDPOINTS_MAX))

    def _peers(self, pairs: Sequence[PairOf], endpoints: Iterable[EndpointOf],
               seen: Iterable[HostSeen]) -> list[EndpointOf]:
        """Return the ends of pairs that no host tells of, as this host's directory has them."""
        told = {end for each in endpoints for end in each.endpoint.ends()}
        hosts = {each.host.underlay: each.host.id for each in seen}
        found = []
        for end in dict.fromkeys(end for each in pairs[:PAIRS_MAX]
                                 for end in (each.pair.here, each.pair.there)):
            if end.vni == 0 or end in told:
                continue
            peer = self._known.peer(Vni(end.vni), end.address)
            host = hosts.get(peer.underlay) if peer.underlay is not None else None
            if host is not None:
                four = end.address.version == 4
                found.append(EndpointOf(host, EndpointSeen(
                    "", end.vni, peer.name, end.address if four else None,
                    None if four else end.address, offers_host_path=False)))
        return found


def _most_important(found: Iterable[HostState]) -> list[PairOf]:
    """Return the pairs, of each host the most important first."""
    ranked = [(rank, PairOf(each.id, pair)) for each in found if each.summary
              for rank, pair in enumerate(each.summary.pairs)]
    ranked.sort(key=lambda each: each[0])
    return [each for _, each in ranked]


def _endpoints(found: Iterable[HostState]) -> list[EndpointOf]:
    return [EndpointOf(each.id, endpoint) for each in found if each.summary
            for endpoint in each.summary.endpoints]


def _networks(found: Iterable[HostState]) -> tuple[NetworkSeen, ...]:
    """Return each virtual network once, as the first host that has it knows it."""
    networks: Mapping[int, NetworkSeen] = {
        network.vni: network for each in reversed(list(found)) if each.summary
        for network in each.summary.networks}
    return tuple(networks[vni] for vni in sorted(networks))
