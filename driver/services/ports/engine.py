"""What Docker still knows of.

How it is asked is the matter of driver/engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from driver.model import EndpointId, NetworkId, Vip


@dataclass(frozen=True)
class EngineView:
    """What this host's dockerd knows of at one moment."""

    networks: frozenset[NetworkId]
    endpoints: frozenset[EndpointId]
    # (subnet, sub-pool or "") of networks whose IPAM is a plugin's -> how many there are
    pools: Mapping[tuple[str, str], int]
    # Of containers, gateways and auxiliary ones, of all networks alike.
    addresses: frozenset[IPv4Address | IPv6Address]


class Engine(Protocol):
    """Docker's API.  Never asked while a call of dockerd's is served."""

    def look(self) -> EngineView:
        """Ask what there is.  Error: EngineUnavailable."""


@dataclass(frozen=True)
class SwarmView:
    """What a manager knows of its swarm at one moment."""

    swarm_id: str
    services: tuple[Vip, ...]  # on networks of this driver
    changing: bool  # tasks come and go at the moment


class Swarm(Protocol):
    """Docker's API, on a manager.  Never asked while a call of dockerd's is served."""

    def look(self) -> SwarmView | None:
        """Ask what there is; None: this host manages no swarm.  Error: EngineUnavailable."""


@dataclass(frozen=True)
class SwarmPool:
    """A subnet of a swarm's network whose addresses are ours, whatever driver it has."""

    network_id: NetworkId
    network: str  # its name, for people only
    subnet: str  # CIDR, network form
    sub_pool: str  # the same, or ""
    gateway: IPv4Address | IPv6Address | None


@dataclass(frozen=True)
class SwarmUses:
    """What a swarm's managers have requested of our IPAM for networks and services."""

    pools: tuple[SwarmPool, ...]
    # (subnet, address) of services in those pools -> the service's name
    vips: Mapping[tuple[str, IPv4Address | IPv6Address], str]


class SwarmUsers(Protocol):
    """Docker's API, on a manager.  Never asked while a call of dockerd's is served."""

    def look(self) -> SwarmUses:
        """Ask what there is.  Error: EngineUnavailable."""
