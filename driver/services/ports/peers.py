"""Defines how to probe whether the host path's SYNs reach other hosts, and how to store the result.

driver/link makes the SYNs; the programs that handle them are in kernel/.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from driver.model import HostAddress


@dataclass(frozen=True)
class Probe:
    """One probe SYN from an endpoint of this host to an endpoint of the same network elsewhere."""

    host: HostAddress  # U of the other host
    port: int  # P of the endpoint there
    caller: int  # P of our endpoint, in whose name the SYN is sent


class Reply(Enum):
    """The result of a probe."""

    PROVEN = auto()  # slim there has seen the SYN with its option
    PLAIN = auto()  # refused: by a slim that gives no proof, or by a firewall in its name
    NONE = auto()
    UNSENT = auto()  # this host could not send it: that says nothing about the path


class SynProber(Protocol):
    """Probes other hosts with SYNs like those of real connections."""

    def ask(self, probes: Collection[Probe], wait_s: float) -> Mapping[Probe, Reply]:
        """Send all at once and wait no longer than for the last answer.  Error: LinkError."""


@dataclass(frozen=True)
class ProbeFlow:
    """The connection that a probe pretends to open."""

    host: HostAddress
    port: int
    source_port: int


class ProbeTable(Protocol):
    """Probes under way, as the wire's hook knows them.  All errors: DatapathError."""

    def expect(self, flow: ProbeFlow, sequence: int) -> bool:
        """Have the hook keep the answer.  False: a container has that flow, so use another one."""

    def window(self, flow: ProbeFlow) -> int | None:
        """Return the answer's window; None: no answer has come."""

    def forget(self, flow: ProbeFlow) -> None:
        """Undo `expect`."""


class HostPaths(Protocol):
    """The hosts that the host path is used to.  All errors: DatapathError."""

    def block(self, hosts: Collection[HostAddress],
              patient: Collection[HostAddress] = ()) -> None:
        """Let new connections to exactly these hosts (U) take the overlay path.

        Connections to them whose SYN is under way fail soon (ETIMEDOUT).  patient: those of the
        hosts for which the SYN is retransmitted as ever.
        """

    def blocked(self) -> Collection[HostAddress]:
        """Return the hosts of the last `block`, even an earlier driver's."""

    def take_unanswered(self) -> Collection[tuple[HostAddress, int]]:
        """Return endpoints (U, P) whose SYNs got no answer or a refusal since the last call."""
