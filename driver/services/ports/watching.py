"""Defines what hosts tell each other while somebody watches the cluster: a summary each.

Rates are per second, over the time since a host's last sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from driver.model import Host, HostId
from driver.services.ports.seeing import Address, Path


@dataclass(frozen=True, slots=True)
class End:
    """One end of connections."""

    vni: int  # 0: in none of slim's networks
    address: Address


@dataclass(frozen=True, slots=True)
class PairRate:
    """All connections by one path between a container's address and a peer's."""

    here: End
    there: End
    path: Path
    connections: int  # open now
    opened_per_s: float
    in_per_s: float  # bytes that `here` has received
    out_per_s: float  # and sent


@dataclass(frozen=True, slots=True)
class EndpointSeen:
    """A container's endpoint, on the host that tells of it."""

    id: str  # its first digits
    vni: int
    container: str  # what Docker calls it, or a short id
    address: Address | None
    address6: Address | None
    offers_host_path: bool

    def ends(self) -> list[End]:
        """Return its addresses."""
        return [End(self.vni, each) for each in (self.address, self.address6) if each is not None]


@dataclass(frozen=True, slots=True)
class PoolFill:
    """A subnet, and how full it is."""

    cidr: str
    used: int  # endpoints
    size: int  # how many it has addresses for


@dataclass(frozen=True, slots=True)
class NetworkSeen:
    """A virtual network, as a host knows it."""

    id: str  # of Docker, on that host
    vni: int
    name: str
    subnets: tuple[PoolFill, ...]
    host_path: str
    internal: bool


@dataclass(frozen=True, slots=True)
class ReasonRate:
    """One counter of a host."""

    name: str
    kind: str  # fallback, drop or other
    per_s: float
    total: int


@dataclass(frozen=True, slots=True)
class PathRate:
    """All that a host's containers have on one path.  On one host both ends are counted."""

    path: Path
    connections: int
    opened_per_s: float
    in_per_s: float
    out_per_s: float


@dataclass(frozen=True)
class HostSeen:
    """A host, as this one knows it."""

    host: Host
    registered: bool  # it has a lease
    gone: bool  # certainly


@dataclass(frozen=True)
class Summary:
    """One host at one moment."""

    host: HostId
    version: str = ""  # of slim
    every_s: float = 0.0  # until the next one
    ready: bool = False  # there are rates: it is not the first sample
    networks: tuple[NetworkSeen, ...] = ()
    endpoints: tuple[EndpointSeen, ...] = ()
    pairs: tuple[PairRate, ...] = ()  # the most important ones first
    reasons: tuple[ReasonRate, ...] = ()
    paths: tuple[PathRate, ...] = ()
    problems: tuple[str, ...] = ()
    more_pairs: int = 0  # that there is no room for
    more_endpoints: int = 0


@dataclass(frozen=True)
class Told:
    """What etcd has of a host's summary."""

    revision: int  # changes with each summary
    summary: Summary | None  # None: not read, it is as known; or not readable
    problem: str = ""  # why it is not readable


class Summaries(Protocol):
    """What watching hosts and watched ones leave for each other.  All errors: StoreUnavailable.

    Everything is under leases, which end by themselves soon after nobody renews them.
    """

    def watch(self, *, again: bool) -> None:
        """Say that this host watches, or still does.  again: what was said before is lost."""

    def unwatch(self) -> None:
        """Take that back.  Idempotent."""

    def size_bytes(self, summary: Summary) -> int:
        """Return how much `put` would write."""

    def put(self, summary: Summary) -> None:
        """Leave this host's summary."""

    def withdraw(self) -> None:
        """Take it back.  Idempotent."""

    def all(self, known: Mapping[HostId, int]) -> Mapping[HostId, Told]:
        """Return what hosts have left.  known: revisions that need not be read again."""
