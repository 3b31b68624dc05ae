"""Makes this host's summary: its networks, containers and counters, and a sample of its sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final

from driver.model import HostId, Network, Vni
from driver.services.ports import (
    End,
    EndpointSeen,
    NetworkSeen,
    PairRate,
    PoolFill,
    ReasonRate,
    Summary,
)
from driver.services.seeing.roster import ID_SHOWN, Roster, Sources
from driver.services.watching.sampling import Sampler

KINDS: Final = ("fallback", "drop")  # what is told apart from what is normal
PROBLEMS_MAX: Final = 10
NOT_USABLE: Final = 3  # addresses of a pool: network, broadcast and gateway
SIZE_MAX: Final = (1 << 53) - 1  # what programs that read JSON take for a whole number


@dataclass(frozen=True)
class Parts:
    """Where a summary comes from."""

    host: HostId
    version: str
    sources: Sources
    sizes: Callable[[], Mapping[Vni, int]]  # endpoints by network, on all hosts
    counters: Callable[[], Mapping[str, int]]
    kinds: Mapping[str, str]  # of counters


@dataclass
class _Counts:
    at_s: float = 0.0
    values: Mapping[str, int] = field(default_factory=dict)


class Here:
    """Takes this host's summary.  For one thread."""

    def __init__(self, parts: Parts, sampler: Sampler,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._parts = parts
        self._sampler = sampler
        self._clock = clock
        self._before: _Counts | None = None

    def begin_anew(self) -> None:
        """Have the next summary be the first one, without rates."""
        self._sampler.begin_anew()
        self._before = None

    def take(self) -> Summary:
        """Return the summary of this moment.  Error: DatapathError."""
        parts, roster = self._parts, Roster(self._parts.sources)
        ready = self._before is not None
        reasons = self._reasons()
        sample = self._sampler.sample(roster)
        return Summary(
            host=parts.host, version=parts.version, ready=ready,
            networks=self._networks(roster), endpoints=_endpoints(roster, sample.pairs),
            pairs=sample.pairs, reasons=reasons, paths=sample.paths,
            problems=_problems(sample.unread),
            more_pairs=sample.more_pairs)

    def _reasons(self) -> tuple[ReasonRate, ...]:
        before, now = self._before, _Counts(self._clock(), self._parts.counters())
        self._before = now
        lasted_s = max(now.at_s - before.at_s, 1e-3) if before is not None else 1.0
        then = before.values if before is not None else now.values
        return tuple(ReasonRate(
            name, kind if (kind := self._parts.kinds.get(name, "")) in KINDS else "other",
            max(0, total - then.get(name, 0)) / lasted_s, total)
            for name, total in now.values.items() if total)

    def _networks(self, roster: Roster) -> tuple[NetworkSeen, ...]:
        sizes = self._parts.sizes()
        return tuple(NetworkSeen(
            network.id, network.vni, roster.called(network),
            tuple(PoolFill(cidr, sizes.get(network.vni, 0), _room(cidr))
                  for cidr in network.subnets), network.host_path.value, network.internal)
            for network in _one_each(roster.networks))


def _problems(unread: Mapping[str, str]) -> tuple[str, ...]:
    """Say which containers were not read as a whole, and why: of many, the first ones."""
    said = [f"not all of {name}: {why}" for name, why in unread.items()]
    more = [f"nor of {len(said) - PROBLEMS_MAX} more"] if len(said) > PROBLEMS_MAX else []
    return (*said[:PROBLEMS_MAX], *more)


def _one_each(networks: Iterable[Network]) -> list[Network]:
    """Return one of Docker's networks for each virtual one, in the order of their numbers."""
    first = {network.vni: network for network in sorted(
        networks, key=lambda each: each.id, reverse=True)}
    return [first[vni] for vni in sorted(first)]


def _room(cidr: str) -> int:
    return min(max(1, ip_network(cidr).num_addresses - NOT_USABLE), SIZE_MAX)


def _endpoints(roster: Roster, pairs: Iterable[PairRate]) -> tuple[EndpointSeen, ...]:
    """Return those of this host's containers, in the order of the pairs that they are in."""
    found = [EndpointSeen(
        each.id[:ID_SHOWN], each.vni, resident.name,
        each.address.ip if each.address else None, each.address6.ip if each.address6 else None,
        bool(each.port) and each.offered)
        for resident in roster.residents for each in resident.endpoints]
    first: dict[End, int] = {}
    for number, pair in enumerate(pairs):
        first.setdefault(pair.here, number)
    last = 1 << 30
    return tuple(sorted(found, key=lambda each: min(
        (first.get(end, last) for end in each.ends()), default=last)))
