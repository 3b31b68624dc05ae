"""What etcd tells by itself: a snapshot, its changes, a snapshot again.

How a watch is kept alive is the store's matter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from driver.model import Endpoint, EndpointId, Host, HostId, NetworkId, Vip, Vni


@dataclass(frozen=True)
class Left:
    """An endpoint's host, or who removed that host, has said that it is gone."""

    endpoint: Endpoint  # as it was


@dataclass(frozen=True)
class Unreadable:
    """There is a record of this endpoint that this driver cannot read."""

    endpoint_id: EndpointId


Said = Endpoint | Left | Unreadable  # what a key says of an endpoint


class Directory(Protocol):
    """What other hosts (and this one) publish, as a feed: snapshot, changes, snapshot again.

    `revision`: etcd's, of the list or the change.
    """

    def follow(self, vni: Vni, listener: DirectoryListener) -> None:
        """Feed `listener` with the network's endpoints from now on.  Idempotent."""

    def unfollow(self, vni: Vni) -> None:
        """Stop, and tell the listener that this host is not in the network any more."""

    def read(self, vni: Vni) -> Iterable[Said]:
        """List a network once, as of now.  Error: StoreUnavailable."""


class DirectoryListener(Protocol):
    """Called from a thread of the feeds, never two calls at once for one network."""

    def snapshot(self, vni: Vni, said: Iterable[Said], revision: int) -> None:
        """All that is on record.  What is not in it is missing, which says nothing of it."""

    def put(self, endpoint: Endpoint) -> None: ...

    def left(self, vni: Vni, endpoint: Endpoint) -> None:
        """It is gone: its host has said so."""

    def missing(self, vni: Vni, endpoint_id: EndpointId, revision: int) -> None:
        """Its record was removed without a word of its host."""

    def unreadable(self, vni: Vni, endpoint_id: EndpointId) -> None:
        """Its record cannot be read any more."""

    def unfollowed(self, vni: Vni) -> None:
        """This host is not in the network any more: none of its entries is wanted."""

    def followed(self, vnis: Collection[Vni]) -> None:
        """These are all networks of this host that are on record."""


@dataclass(frozen=True)
class VipLeft:
    """A manager has said that there is no such service any more."""

    address: IPv4Address


@dataclass(frozen=True)
class VipUnreadable:
    """There is a record of this service that this driver cannot read."""

    address: IPv4Address


VipSaid = Vip | VipLeft | VipUnreadable


class VipListener(Protocol):
    """Called from a thread of the feeds, never two calls at once for one network."""

    def snapshot(self, network_id: NetworkId, said: Iterable[VipSaid], revision: int) -> None:
        """All that is on record.  What is not in it is missing, which says nothing of it."""

    def put(self, service: Vip) -> None: ...

    def left(self, network_id: NetworkId, address: IPv4Address) -> None:
        """A manager has said that it is gone."""

    def missing(self, network_id: NetworkId, address: IPv4Address, revision: int) -> None:
        """Its record was removed without a manager's word."""

    def unreadable(self, network_id: NetworkId, address: IPv4Address) -> None:
        """Its record cannot be read any more."""


class VipFeed(Protocol):
    """What a swarm's managers publish of its services; see Directory."""

    def follow(self, network_id: NetworkId, listener: VipListener) -> None:
        """Feed `listener` with the network's services from now on.  Idempotent."""

    def unfollow(self, network_id: NetworkId) -> None: ...

    def read(self, network_id: NetworkId) -> Iterable[VipSaid]:
        """List a network once, as of now.  Error: StoreUnavailable."""


@dataclass(frozen=True)
class Answer:
    """As of a revision of etcd, all endpoints of a host were on record."""

    revision: int
    underlay: IPv4Address | None = None  # of a host that was removed: who did says it in its place


class Answers(Protocol):
    """What hosts say of their records as a whole.  All errors: StoreUnavailable."""

    def all(self) -> Mapping[HostId, Answer]:
        """The answers that there are."""

    def ask(self, host_id: HostId, revision: int) -> None:
        """Have that host say so, as of this revision or a later one."""

    def say(self, revision: int) -> None:
        """Answer for this host: all its endpoints were on record as of this revision."""


class Publications(Protocol):
    """The same for the services of swarms.  All errors: StoreUnavailable."""

    def all(self) -> Mapping[str, int]:
        """Swarm's id -> revision as of which all its services were on record."""

    def ask(self, revision: int) -> None:
        """Have all swarms' publishers say so, as of this revision or a later one."""


class Hosts(Protocol):
    """Registered hosts; a record lives as long as its host keeps its lease."""

    def register(self, host: Host) -> None:
        """Put this host's record under a lease and keep it alive until `unregister`."""

    def unregister(self, host_id: HostId) -> None: ...
