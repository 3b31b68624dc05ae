"""Defines what the kernel tells of connections while they are followed, and of what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Protocol

from driver.model import HostAddress, Vni
from driver.services.ports.seeing import Address


class EventKind(StrEnum):
    """What has happened."""

    CONNECT = "connect"  # connect() has found its way
    ACCEPT = "accept"  # a connection that was called from elsewhere is established
    CLOSE = "close"
    FAILED = "failed"  # a connect() without an answer, or that was answered by a RST
    REFUSED = "refused"  # by slim: a connect(), a SYN, a packet


class Ending(StrEnum):
    """Who has ended a connection."""

    HERE = "here"  # the container has closed first
    PEER = "peer"
    RESET = "reset"  # by either, or it has timed out
    NOT = ""  # it has not ended, or was never made


@dataclass(frozen=True, slots=True)
class Event:
    """One event; IPv4-mapped addresses are IPv4."""

    at_ns: int  # CLOCK_MONOTONIC
    kind: EventKind
    reason: str  # a counter's name: the path, why not the host path, or why it was refused
    inbound: bool  # the peer has called
    vni: Vni | None
    local: Address | None  # the container's; None: not known
    local_port: int  # 0: not known
    peer: Address  # a service's, if that was called
    peer_port: int
    host: HostAddress | None  # the peer's; None: not known
    task: IPv4Address | None  # that was chosen, if a service was called
    times: int  # refusals since the last that was told, this one included
    lasted_ns: int  # of a connection that has ended; else 0
    received_bytes: int
    sent_bytes: int
    ending: Ending
    socket: int  # its cookie: the same for all events of a connection; 0: a packet's


class Events(Protocol):
    """The kernel's events, each of which is read once.  All errors: DatapathError."""

    def wait(self) -> None:
        """Return when there are some, or `wake` was called."""

    def wake(self) -> None:
        """End `wait`, now and for ever."""

    def take(self, most: int) -> Sequence[bytes]:
        """Return up to `most` events, the oldest first, in the kernel's form."""

    def is_refusal(self, raw: bytes) -> bool:
        """Return whether an event is a refusal, without reading all of it."""

    def read(self, raw: bytes) -> Event:
        """Return what an event says."""

    def lost(self) -> int:
        """Return how many events were lost because nobody has read them soon enough, ever."""

    def watch(self, for_s: float, cookie: int = 0) -> None:
        """Have connections told for a while, of one sandbox or of all (0); 0 s: no more.

        It ends by itself.  Refusals are told at any time.
        """
