"""What etcd tells by itself: a snapshot, its changes, a snapshot again.

How a watch is kept alive is the store's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Address
from typing import Protocol

from driver.model import Endpoint, EndpointId, Host, HostId, NetworkId, Service, Vni


class Directory(Protocol):
    """What other hosts (and this one) publish, as a feed: snapshot, changes, snapshot again."""

    def follow(self, vni: Vni, listener: DirectoryListener) -> None:
        """Feed `listener` with the network's endpoints from now on.  Idempotent."""

    def unfollow(self, vni: Vni) -> None: ...


class DirectoryListener(Protocol):
    """Called from the feed's own thread, never two calls at once for one network."""

    def snapshot(self, vni: Vni, endpoints: Iterable[Endpoint]) -> None:
        """This is all there is: what is not in it is gone."""

    def put(self, endpoint: Endpoint) -> None: ...

    def removed(self, vni: Vni, endpoint_id: EndpointId) -> None: ...

    def followed(self, vnis: Collection[Vni]) -> None:
        """These are all networks of this host; what is known of others is of the past."""


class ServiceListener(Protocol):
    """Called from the feed's own thread, never two calls at once for one network."""

    def snapshot(self, network_id: NetworkId, services: Iterable[Service]) -> None:
        """These are all services of the network that have an address there."""

    def put(self, service: Service) -> None: ...

    def removed(self, network_id: NetworkId, address: IPv4Address) -> None: ...


class ServiceFeed(Protocol):
    """What a swarm's managers publish of its services; see Directory."""

    def follow(self, network_id: NetworkId, listener: ServiceListener) -> None:
        """Feed `listener` with the network's services from now on.  Idempotent."""

    def unfollow(self, network_id: NetworkId) -> None: ...


class Hosts(Protocol):
    """Registered hosts; a record lives as long as its host keeps its lease."""

    def register(self, host: Host) -> None:
        """Put this host's record under a lease and keep it alive until `unregister`."""

    def unregister(self, host_id: HostId) -> None: ...

    def follow(self, listener: Callable[[dict[HostId, Host]], None]) -> None:
        """Call `listener` with all live hosts, now and at each change, from the feed's thread."""
