"""Owns what the kernel knows of services: those of this host's networks, from the managers' feed.

It must not know where the feed comes from, nor how a task is chosen.  Without a feed (etcd or all
managers away) what the kernel knows stays; a task that is gone is not chosen, as the directory
lacks it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address

from driver.errors import DatapathError
from driver.model import Network, NetworkId, Service, Vni
from driver.services.ports import Datapath, ServiceFeed

log = logging.getLogger(__name__)

SWARM_ID_LENGTH = 25  # of a swarm's network id; others have 64 digits, and no services


class ServiceMirror:
    """Is the feed's listener.  Thread-safe."""

    def __init__(self, feed: ServiceFeed, datapath: Datapath) -> None:
        self._feed = feed
        self._datapath = datapath
        self._lock = threading.RLock()
        self._vnis: dict[NetworkId, Vni] = {}
        self._services: dict[Vni, dict[IPv4Address, Service]] = {}
        # What is, or may be, in the maps: entered by a driver before, or refused since.
        self._inherited: dict[Vni, set[IPv4Address]] = {}
        for vni, address in datapath.list_services():
            self._inherited.setdefault(vni, set()).add(address)
        self._refused: set[tuple[Vni, IPv4Address]] = set()

    def follow(self, network: Network) -> None:
        """Serve the network's services from now on, if it can have any.  Idempotent."""
        if len(network.id) != SWARM_ID_LENGTH or not network.vip:
            return
        with self._lock:
            self._vnis[network.id] = network.vni
        self._feed.follow(network.id, self)

    def unfollow(self, network: Network) -> None:
        """Undo follow.  Idempotent."""
        with self._lock:
            if network.id not in self._vnis:
                return
        self._feed.unfollow(network.id)  # waits for its listener: not under the lock
        with self._lock:
            if self._vnis.pop(network.id, None) is not None:
                self._bring(network.vni, self._services.pop(network.vni, {}).keys())

    def followed(self, networks: Collection[Network]) -> None:
        """These are all networks of this host: forget what a driver before served besides."""
        with self._lock:
            for vni in self._inherited.keys() - {network.vni for network in networks
                                                 if network.id in self._vnis}:
                self._bring(vni, self._inherited.pop(vni))

    def snapshot(self, network_id: NetworkId, services: Iterable[Service]) -> None:
        """See ports.ServiceListener."""
        with self._lock:
            vni = self._vnis.get(network_id)
            if vni is None:
                return
            before = self._services.get(vni, {})
            self._services[vni] = {service.address: service for service in services}
            self._bring(vni, {*before, *self._services[vni], *self._inherited.pop(vni, ())})

    def put(self, service: Service) -> None:
        """See ports.ServiceListener."""
        with self._lock:
            vni = self._vnis.get(service.network_id)
            if vni is not None:
                self._services.setdefault(vni, {})[service.address] = service
                self._bring(vni, [service.address])

    def removed(self, network_id: NetworkId, address: IPv4Address) -> None:
        """See ports.ServiceListener."""
        with self._lock:
            vni = self._vnis.get(network_id)
            if vni is not None:
                self._services.get(vni, {}).pop(address, None)
                self._bring(vni, [address])

    def retry(self) -> None:
        """Try again what the maps refused.  For a caller that comes at intervals."""
        with self._lock:
            for vni, address in list(self._refused):
                self._bring(vni, [address])

    def count(self) -> int:
        """Count of services that this host serves."""
        with self._lock:
            return sum(map(len, self._services.values()))

    def _bring(self, vni: Vni, addresses: Iterable[IPv4Address]) -> None:
        """Bring the maps in line with what is known of these addresses."""
        for address in addresses:
            service = self._services.get(vni, {}).get(address)
            try:
                if service is not None:
                    self._datapath.put_service(vni, address, service.backends)
                else:
                    self._datapath.delete_service(vni, address)
                self._refused.discard((vni, address))
            except DatapathError as error:
                self._refused.add((vni, address))
                log.error("service %s: %s", service.name if service else address, error)
