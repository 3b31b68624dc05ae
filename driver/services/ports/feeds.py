"""Defines the feeds that etcd sends: a snapshot, its changes, a snapshot again.

The store keeps the watches alive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from driver.model import Endpoint, EndpointId, Host, HostAddress, HostId, NetworkId, Vip, Vni


@dataclass(frozen=True)
class Left:
    """An endpoint's host, or whoever removed that host, has said that it is gone."""

    endpoint: Endpoint  # as it was


@dataclass(frozen=True)
class Unreadable:
    """This endpoint has a record that this driver cannot read."""

    endpoint_id: EndpointId


Said = Endpoint | Left | Unreadable  # what a key says of an endpoint


class Directory(Protocol):
    """What other hosts (and this one) publish, as a feed: snapshot, changes, snapshot again.

    `revision`: etcd's revision of the list or the change.
    """

    def follow(self, vni: Vni, listener: DirectoryListener) -> None:
        """Feed `listener` with the network's endpoints from now on.  Idempotent."""

    def unfollow(self, vni: Vni) -> None:
        """Stop, and tell the listener that this host is no longer in the network."""

    def read(self, vni: Vni) -> Iterable[Said]:
        """List a network once, as of now.  Error: StoreUnavailable."""


class DirectoryListener(Protocol):
    """Called from a thread of the feeds, never concurrently for one network."""

    def snapshot(self, vni: Vni, said: Iterable[Said], revision: int) -> None:
        """Take all that is on record.  Anything else is missing, which does not mean gone."""

    def put(self, endpoint: Endpoint) -> None: ...

    def left(self, vni: Vni, endpoint: Endpoint) -> None:
        """Take the news that an endpoint is gone: its host has said so."""

    def missing(self, vni: Vni, endpoint_id: EndpointId, revision: int) -> None:
        """Take the news that a record was removed without word from its host."""

    def unreadable(self, vni: Vni, endpoint_id: EndpointId) -> None:
        """Take the news that a record can no longer be read."""

    def unfollowed(self, vni: Vni) -> None:
        """Drop all entries of a network that this host is no longer in."""

    def followed(self, vnis: Collection[Vni]) -> None:
        """Take the complete list of this host's networks that are on record."""


@dataclass(frozen=True)
class VipLeft:
    """A manager has said that this service no longer exists."""

    address: IPv4Address


@dataclass(frozen=True)
class VipUnreadable:
    """This service has a record that this driver cannot read."""

    address: IPv4Address


VipSaid = Vip | VipLeft | VipUnreadable


class VipListener(Protocol):
    """Called from a thread of the feeds, never concurrently for one network."""

    def snapshot(self, network_id: NetworkId, said: Iterable[VipSaid], revision: int) -> None:
        """Take all that is on record.  Anything else is missing, which does not mean gone."""

    def put(self, service: Vip) -> None: ...

    def left(self, network_id: NetworkId, address: IPv4Address) -> None:
        """Take the news that a service is gone: a manager has said so."""

    def missing(self, network_id: NetworkId, address: IPv4Address, revision: int) -> None:
        """Take the news that a record was removed without word from a manager."""

    def unreadable(self, network_id: NetworkId, address: IPv4Address) -> None:
        """Take the news that a record can no longer be read."""


class VipFeed(Protocol):
    """What a swarm's managers publish about its services; see Directory."""

    def follow(self, network_id: NetworkId, listener: VipListener) -> None:
        """Feed `listener` with the network's services from now on.  Idempotent."""

    def unfollow(self, network_id: NetworkId) -> None: ...

    def read(self, network_id: NetworkId) -> Iterable[VipSaid]:
        """List a network once, as of now.  Error: StoreUnavailable."""


@dataclass(frozen=True)
class Answer:
    """A statement that all endpoints of a host were on record as of a revision of etcd."""

    revision: int
    underlay: HostAddress | None = None  # of a removed host: whoever removed it answers for it


class Answers(Protocol):
    """What hosts say about their records as a whole.  All errors: StoreUnavailable."""

    def all(self) -> Mapping[HostId, Answer]:
        """Return the existing answers."""

    def ask(self, host_id: HostId, revision: int) -> None:
        """Ask that host for an answer as of this revision or a later one."""

    def say(self, revision: int) -> None:
        """Answer for this host: all its endpoints were on record as of this revision."""


class Publications(Protocol):
    """The same as Answers, for the services of swarms.  All errors: StoreUnavailable."""

    def all(self) -> Mapping[str, int]:
        """Return swarm's id -> revision as of which all its services were on record."""

    def ask(self, revision: int) -> None:
        """Ask all swarms' publishers for an answer as of this revision or a later one."""


class Hosts(Protocol):
    """Registered hosts; a record lives as long as its host keeps its lease."""

    def register(self, host: Host) -> None:
        """Put this host's record under a lease and keep it alive until `unregister`."""

    def unregister(self, host_id: HostId) -> None: ...
