"""Defines what the use cases ask Docker.

driver/engine does the asking.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from driver.model import EndpointId, NetworkId, Vip


@dataclass(frozen=True)
class EngineView:
    """What this host's dockerd knows at one moment."""

    networks: frozenset[NetworkId]
    endpoints: frozenset[EndpointId]
    # (subnet, sub-pool or "") of networks whose IPAM is a plugin -> how many there are
    pools: Mapping[tuple[str, str], int]
    # Containers' addresses, gateways and auxiliary addresses of all networks.
    addresses: frozenset[IPv4Address | IPv6Address]


class Engine(Protocol):
    """Docker's API.  Never used while a call of dockerd is being served."""

    def look(self) -> EngineView:
        """Return what Docker knows now.  Error: EngineUnavailable."""


@dataclass(frozen=True)
class Container:
    """A running container as its names go."""

    name: str  # its own, which Docker gives it once
    names: Mapping[EndpointId, frozenset[str]]  # in each of its networks, of whatever driver
    links: frozenset[str]  # what it alone calls others (`docker run --link`)


@dataclass(frozen=True)
class NamesView:
    """What this host's dockerd calls its running containers, and their networks."""

    containers: tuple[Container, ...]
    networks: Mapping[NetworkId, str]
    network_of: Mapping[EndpointId, NetworkId]


class ContainerNames(Protocol):
    """Docker's API.  Never used while a call of dockerd is being served."""

    def look(self) -> NamesView:
        """Return all names now.  Error: EngineUnavailable.

        A container is called by its name, its short id, its aliases in the network, and its host
        name if the user has chosen one.
        """


class FailedStarts(Protocol):
    """Docker's API.  Never used while a call of dockerd is being served."""

    def failed(self, networks: Collection[NetworkId]) -> dict[str, str]:
        """Return containers of these networks that should run: id -> name.

        They have a restart policy, and a network driver's error has kept them from starting.
        Error: EngineUnavailable.
        """

    def start(self, container_id: str) -> None:
        """Start one.  It runs, or there is none: nothing to do.  Error: EngineUnavailable."""


@dataclass(frozen=True)
class SwarmView:
    """What a manager knows about its swarm at one moment."""

    swarm_id: str
    services: tuple[Vip, ...]  # on networks of this driver
    changing: bool  # tasks are starting or stopping


class Swarm(Protocol):
    """Docker's API on a manager.  Never used while a call of dockerd is being served."""

    def look(self) -> SwarmView | None:
        """Return the swarm now; None: this host manages none.  Error: EngineUnavailable."""


@dataclass(frozen=True)
class SwarmPool:
    """A subnet of a swarm network whose addresses come from our IPAM, whatever its driver."""

    network_id: NetworkId
    network: str  # its name, for people only
    subnet: str  # CIDR, network form
    sub_pool: str  # the same, or ""
    gateway: IPv4Address | IPv6Address | None


@dataclass(frozen=True)
class SwarmUses:
    """What a swarm's managers have requested from our IPAM for networks and services."""

    pools: tuple[SwarmPool, ...]
    # (subnet, address) of services in those pools -> the service's name
    vips: Mapping[tuple[str, IPv4Address | IPv6Address], str]


class SwarmUsers(Protocol):
    """Docker's API on a manager.  Never used while a call of dockerd is being served."""

    def look(self) -> SwarmUses:
        """Return the uses now.  Error: EngineUnavailable."""
