"""Whether SYNs of the host path get to other hosts, as it is asked and written down.

How a SYN is made is the matter of driver/link, what the programs make of it that of kernel/.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address
from typing import Protocol


@dataclass(frozen=True)
class Probe:
    """One SYN to ask with: from an endpoint of this host to one of the same network elsewhere."""

    host: IPv4Address  # U of the other host
    port: int  # P of the endpoint there
    caller: int  # P of ours, in whose name it asks


class Reply(Enum):
    """What became of a probe."""

    PROVEN = auto()  # slim there has seen the SYN with its option
    PLAIN = auto()  # refused: by a slim that gives no proof, or by a firewall in its name
    NONE = auto()
    UNSENT = auto()  # this host could not send it: that says nothing of the way


class SynProber(Protocol):
    """Asks other hosts by SYNs as real connections would send them."""

    def ask(self, probes: Collection[Probe], wait_s: float) -> Mapping[Probe, Reply]:
        """Send all at once, wait no longer than for the last answer.  Error: LinkError."""


@dataclass(frozen=True)
class ProbeFlow:
    """The connection that a probe pretends to begin."""

    host: IPv4Address
    port: int
    source_port: int


class ProbeTable(Protocol):
    """Probes that are under way, as the wire's hook knows them.  Error of all: DatapathError."""

    def expect(self, flow: ProbeFlow, sequence: int) -> bool:
        """Have the hook keep the answer.  False: a container has that flow, take another one."""

    def window(self, flow: ProbeFlow) -> int | None:
        """Return the answer's window, None: none has come."""

    def forget(self, flow: ProbeFlow) -> None:
        """Undo `expect`."""


class HostPaths(Protocol):
    """To which hosts the host path is used.  Error of all: DatapathError."""

    def block(self, hosts: Collection[IPv4Address]) -> None:
        """Let new connections to these hosts (U), and no others, take the overlay path."""

    def blocked(self) -> Collection[IPv4Address]:
        """Return what the last `block` said, also a driver's of before."""

    def take_unanswered(self) -> Collection[tuple[IPv4Address, int]]:
        """Endpoints (U, P) whose SYNs were not answered, or refused, since this was last asked."""
