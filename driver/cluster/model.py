"""Defines what a cluster made by `slim cluster` consists of: hosts, etcd's members, its ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from driver.cluster.addresses import place

CLIENT_PORT: Final = 23790  # of etcd, for drivers; TLS, client certificate required
PEER_PORT: Final = 23800  # of etcd, between its members; TLS, certificate of a member required
DOOR_PORT: Final = 23780  # where members let hosts in, and renew their certificates; TLS


class Role(StrEnum):
    """What a host has to do with etcd."""

    MEMBER = "member"  # runs one of etcd's members, or is about to
    CLIENT = "client"


@dataclass(frozen=True)
class ClusterHost:
    """A host that has joined, as etcd has it on record."""

    id: str
    name: str
    address: str  # where its etcd listens if it is a member, and from where it comes
    joined_s: float  # Unix time
    role: Role = Role.CLIENT
    version: str = ""  # of slim
    certificate_until_s: float = 0.0  # Unix time
    leaving: bool = False
    client_only: bool = False  # never to be a member


@dataclass(frozen=True)
class Member:
    """One of etcd's members, as etcd lists it."""

    id: int
    name: str  # the host's id; "" until it has started once
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False

    @property
    def address(self) -> str:
        """Return the host's address, from the first peer URL."""
        return address_of(self.peer_urls[0]) if self.peer_urls else ""


@dataclass(frozen=True)
class MemberHealth:
    """What a member says of itself."""

    version: str
    bytes_used: int
    bytes_allocated: int
    leader: int  # the leader's id; 0: it knows none
    is_learner: bool


def running(health: Mapping[int, MemberHealth]) -> frozenset[int]:
    """Return the ids of the members that answer and know a leader: the others do not count."""
    return frozenset(member for member, said in health.items() if said.leader)


@dataclass(frozen=True)
class Situation:
    """All that a decision on members is made from."""

    members: tuple[Member, ...]
    hosts: tuple[ClusterHost, ...]
    healthy: frozenset[int]  # ids of the members that answer and know a leader
    leader: int  # the member's id
    alive: frozenset[str]  # ids of the hosts whose keeper has told so within ALIVE_S
    silent_s: dict[str, float] = field(default_factory=dict)  # host's id -> how long not alive
    passed_over: frozenset[str] = frozenset()  # hosts that did not become members when asked to


def peer_url(address: str) -> str:
    """Return where the member of a host listens for the other members."""
    return f"https://{place(address, PEER_PORT)}"


def client_url(address: str) -> str:
    """Return where the member of a host listens for drivers."""
    return f"https://{place(address, CLIENT_PORT)}"


def address_of(url: str) -> str:
    """Return the address in what `peer_url` or `client_url` returned."""
    return url.partition("//")[2].rpartition(":")[0].strip("[]")


def majority(voters: int) -> int:
    """Return how many of so many voters have to run."""
    return voters // 2 + 1
