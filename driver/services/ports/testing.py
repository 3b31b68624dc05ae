"""Defines what hosts tell each other when they test the ways between them, and how they do it.

A round is one test.  Its participants send each other marked packets, each says in its row what
went out and what came in, and whoever asked for the round judges the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from driver.model import Host, HostAddress, HostId, KnownHost

TOKEN_BYTES = 8  # of a round's token
NO_HOST = HostId("")


@dataclass(frozen=True)
class Round:
    """One test, as it is asked for; at most one at a time in a cluster."""

    token: bytes  # names the round, and marks its packets; TOKEN_BYTES
    asker: str  # name of the host where it was asked for; for people
    lease: int = 0  # id of the lease that all records of the round have
    go: bool = False  # False: participants get ready; True: they send
    focus: HostId = NO_HOST  # only ways from and to this host; empty: all
    one_way: bool = False  # only ways from `focus`

    def includes(self, sender: HostId, receiver: HostId) -> bool:
        """Tell whether the way from one host to the other is tested."""
        if sender == receiver:
            return False
        return not self.focus or sender == self.focus or (
            receiver == self.focus and not self.one_way)


@dataclass(frozen=True)
class Participant:
    """A host that is ready: how it is set up, and how it is."""

    host: HostId
    name: str  # for people
    underlay: HostAddress
    version: str  # of slim
    layout: int  # of the kernel maps
    vxlan_port: int  # UDP
    ports: tuple[int, ...]  # first and last endpoint port, TCP; empty: no host path
    device: str  # of the underlay
    mtu: int  # of that device, bytes
    guard: str  # empty: in force; else why not
    etcd_us: int  # until etcd answered a linearizable read
    clock_us: int  # the host's clock when this was written, since the Unix epoch


@dataclass(frozen=True)
class Target:
    """Where to send marked packets."""

    underlay: HostAddress
    vxlan_port: int  # UDP
    ports: tuple[int, ...]  # endpoint ports that are sent a SYN
    sizes: tuple[int, ...]  # of packets in the overlay, bytes, 64 and more
    whole: tuple[int, ...]  # of packets around them with "don't fragment", bytes, 114 and more


@dataclass(frozen=True)
class Sent:
    """What a sender learns of the way to one host."""

    rtt_us: int = -1  # the shortest round trip of an ICMP echo; -1: no answer
    refused: str = ""  # why this host could not send to the VXLAN port
    syns_refused: str = ""  # why it could not send SYNs
    told_mtu: int = 0  # what a router, or this host's route, said is the most, bytes; 0: nothing
    trouble: str = ""  # what the driver's own probes of the host path have found


@dataclass(frozen=True)
class Heard:
    """What a receiver learns of the way from one host.  Sizes: packets in the overlay, bytes."""

    arrived: frozenset[int] = frozenset()  # sizes seen on the underlay's device
    passed: frozenset[int] = frozenset()  # sizes that came out of the VXLAN device, unchanged
    damaged: frozenset[int] = frozenset()  # sizes that came out of it changed
    whole: int = 0  # the largest packet (bytes) that came with "don't fragment"
    syns: frozenset[int] = frozenset()  # ports whose SYN came with slim's option
    stripped: frozenset[int] = frozenset()  # ports whose SYN came without it
    seen_as: str = ""  # the source address that packets came with, if it is another one


@dataclass(frozen=True)
class Row:
    """All that one host has learnt in a round, by the other host's underlay address."""

    host: HostId
    sent: Mapping[HostAddress, Sent] = field(default_factory=dict)
    heard: Mapping[HostAddress, Heard] = field(default_factory=dict)


class Rounds(Protocol):
    """The rounds' records, which all hosts share.  All calls raise StoreUnavailable."""

    def begin(self, asked: Round) -> Round | None:
        """Write the round and return it with its lease; None: another one is under way."""

    def current(self) -> Round | None:
        """Return the round that is under way."""

    def go(self, asked: Round) -> bool:
        """Have the participants send.  False: the round is over."""

    def end(self, asked: Round) -> None:
        """Let all records of the round go, with its lease."""

    def enter(self, asked: Round, participant: Participant) -> None:
        """Write that a host takes part."""

    def participants(self, asked: Round) -> Mapping[HostId, Participant]:
        """Return the hosts that take part so far; unreadable records are left out."""

    def put_row(self, asked: Round, row: Row) -> None:
        """Write what a host has learnt."""

    def rows(self, asked: Round) -> Mapping[HostId, Row]:
        """Return the rows so far; unreadable ones are left out."""

    def live(self) -> Mapping[HostId, Host]:
        """Return the hosts that have a lease."""

    def known(self) -> Mapping[HostId, KnownHost]:
        """Return all hosts that have ever registered."""

    def measure_us(self) -> int:
        """Return how long a linearizable read took, the shortest of a few."""


class Marking(Protocol):
    """Sends and hears one round's packets on this host.  `send` and `learn`: one thread."""

    def send(self, targets: Sequence[Target]) -> None:
        """Send each target one of each packet.  What cannot be sent is noted.  2 ms a target."""

    def listen(self, seconds: float) -> None:
        """Take the answers to what was sent for that long."""

    def sent(self) -> Mapping[HostAddress, Sent]:
        """Return what was learnt as a sender."""

    def heard(self) -> Mapping[HostAddress, Heard]:
        """Return what was learnt as a receiver."""


class Marker(Protocol):
    """Opens what a round needs on this host."""

    def marking(self, token: bytes) -> AbstractContextManager[Marking]:
        """Hear and send packets with this mark.  Error: LinkError."""
