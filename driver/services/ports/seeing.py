"""Defines what is needed to show connections, and to say which way one would take.

Everything is read at the moment of the question; nobody is slower while nobody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from driver.model import Vni
from driver.services.ports.datapath import Attachment

Address = IPv4Address | IPv6Address
# A connection on the host path as the map of flows has it: peer's U, peer's port, own port.
FlowName = tuple[Address, int, int]


class Path(StrEnum):
    """The way of a connection."""

    HOST = "host"
    OVERLAY = "overlay"
    LOCAL = "local"  # direct, on one host
    OUTSIDE = "outside"  # in no network of slim's
    NONE = "none"  # it cannot be made


@dataclass(frozen=True)
class SocketFilter:
    """Which sockets are asked for; empty: all."""

    container: str = ""  # its name, or the beginning of its id
    network: str = ""  # its name or subnet, or the beginning of its id
    path: Path | None = None
    listening: bool = False  # listeners instead of connections
    everything: bool = False  # those of no slim network, too


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """A TCP socket as the kernel has it; IPv4-mapped addresses are IPv4."""

    local: Address
    local_port: int
    peer: Address
    peer_port: int
    state: str  # as ss(8) spells it
    storages: Mapping[int, bytes]  # id of a map of socket storage -> what this socket has there
    rtt_us: int = 0  # smoothed; 0: not measured
    retransmissions: int = 0  # segments
    received_bytes: int = 0
    sent_bytes: int = 0  # each counted once
    waiting: int = 0  # of a listener: connections that nobody has accepted yet
    backlog: int = 0  # of a listener: how many may wait
    cookie: int = 0  # names it among the sockets of its namespace as long as it lives; 0: not known


class Sockets(Protocol):
    """TCP sockets of sandboxes."""

    def read(self, sandbox_key: str, take: Callable[[OpenSocket], bool], *, listening: bool
             ) -> bool:
        """Call `take`, in another thread, with each open connection, or listener, as it is read.

        Stops when that returns False.  What is in TIME_WAIT is not open, nor is a SYN that is not
        answered yet.  Returns False if there is no such namespace (any more).  Error: LinkError.
        """

    def ipv6_only(self, sandbox_key: str) -> bool:
        """Return whether IPv6 sockets there take no IPv4 by default (net.ipv6.bindv6only).

        Error: LinkError, also if there is no such namespace.
        """


@dataclass(frozen=True, slots=True)
class Names:
    """What the program sees of its connection on the host path."""

    local: Address
    local_port: int
    peer: Address  # a service's, if that was called
    peer_port: int
    flow: FlowName
    accepted: bool  # by a listener; else the program has called


class SocketNames(Protocol):
    """What the programs keep with sockets."""

    def names(self, socket: OpenSocket) -> Names | None:
        """Return the virtual names; None: its own addresses are those that its program sees."""

    def called(self, socket: OpenSocket) -> IPv4Address | None:
        """Return the service's address that was called instead of `socket.peer`, if any."""


@dataclass(frozen=True)
class Location:
    """Where the directory has an endpoint."""

    host: Address  # U
    port: int  # 0: no host path is offered


class Lookups(Protocol):
    """Single entries of the kernel's maps at this moment.  All errors: DatapathError."""

    def attachments(self, cookie: int) -> tuple[Attachment, ...] | None:
        """Return a sandbox's endpoints as its connects see them; None: it is not finished."""

    def location(self, vni: Vni, address: Address) -> Location | None:
        """Return where an address of a network is; None: the directory does not have it."""

    def is_here(self, vni: Vni, address: Address) -> bool:
        """Return whether packets to it are handed over on this host."""

    def tasks(self, vni: Vni, address: IPv4Address) -> tuple[IPv4Address, ...] | None:
        """Return the addresses behind a service's; None: it is no service's address."""

    def endpoint_of(self, host: Address, port: int) -> tuple[Vni, IPv4Address] | None:
        """Return the endpoint that (U, P) names."""

    def withheld(self, cookie: int) -> str | None:
        """Return the reason (a counter's name) that keeps a sandbox off the host path."""

    def has_ipv6_options(self, cookie: int) -> bool:
        """Return whether IPv6 options without a counterpart in IPv4 keep its IPv6 off."""

    def share_used(self, cookie: int) -> bool:
        """Return whether a sandbox may open no more connections on the host path."""

    def is_dead(self, host: Address) -> bool:
        """Return whether connections to a host (U) are refused at once."""

    def is_blocked(self, host: Address) -> bool:
        """Return whether SYNs of the host path are known not to get through to a host (U)."""

    def age_s(self, flow: FlowName) -> float | None:
        """Return for how long a connection has been open; None: the map does not have it."""
