"""Owns what this host does when others have removed its records: live endpoints are entered
again where their addresses are free, the rest is given up.

It must not know how it is found out.  No address is ever given twice: etcd decides.
"""

from __future__ import annotations

import logging
from typing import Final

from driver import deadline
from driver.errors import SlimError
from driver.model import Endpoint, EndpointId, Network, NetworkId
from driver.services.endpoints import EndpointService
from driver.services.later import Later
from driver.services.ports import Directory, Endpoints, Networks
from driver.services.reconcile import Reconciler
from driver.services.service_mirror import ServiceMirror

log = logging.getLogger(__name__)

RETRY_S: Final = 2.0
LIMIT_S: Final = 60.0
_ALL: Final = "records of this host"


class Returning:
    """Runs in a thread of its own, until it has succeeded."""

    def __init__(self, *, networks: Networks, endpoints: Endpoints, directory: Directory,
                 services: ServiceMirror, service: EndpointService, reconciler: Reconciler
                 ) -> None:
        self._networks = networks
        self._endpoints = endpoints
        self._directory = directory
        self._services = services
        self._service = service
        self._reconciler = reconciler
        # Until each has been dealt with: a first attempt may come half-way.
        self._lost: dict[EndpointId, Endpoint] = {}
        self._left: dict[NetworkId, Network] = {}
        self._later: Later[str] = Later(self._run, threads=1, name="returning")

    def start(self) -> None:
        """Begin to take askings."""
        self._later.start()

    def stop(self) -> None:
        """End."""
        self._later.stop()

    def ask(self) -> None:
        """Records of this host were removed by others: do what it takes, soon."""
        self._later.submit(_ALL)

    def _run(self, key: str) -> None:
        try:
            with deadline.limit(LIMIT_S):
                complete = self.run()
        except SlimError as error:
            log.warning("what is left of this host cannot be brought in line yet: %s", error)
            complete = False
        if not complete:
            self._later.submit(key, RETRY_S)

    def run(self) -> bool:
        """Do it once; True: it is complete.  Error: StoreUnavailable, then all is as before."""
        self._lost |= {endpoint.id: endpoint for endpoint in self._endpoints.reread()}
        self._left |= {network.id: network for network in self._networks.reread()}
        for endpoint in list(self._lost.values()):
            self._service.restore_or_give_up(endpoint)
            del self._lost[endpoint.id]
        networks = {network.id: network for network in self._networks.list()}
        kept = {network.vni for network in networks.values()}
        for network_id, network in self._left.items():
            if network_id not in networks:
                self._services.unfollow(network)
            if network.vni not in kept:
                self._directory.unfollow(network.vni)
        self._left.clear()
        # Links and maps of whatever is not on record any more.
        return self._reconciler.run()
