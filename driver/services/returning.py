"""Owns what this host does when others have removed its records: live endpoints are entered
again where their addresses are free, the rest is given up.

It must not know how it is found out.  No address is ever given twice: etcd decides.
"""

from __future__ import annotations

import logging
from typing import Final

from driver import deadline
from driver.errors import SlimError
from driver.model import Endpoint, EndpointId, Vni
from driver.services.endpoints import EndpointService
from driver.services.later import Later
from driver.services.ports import Directory, Endpoints, Networks
from driver.services.reconcile import Reconciler

log = logging.getLogger(__name__)

RETRY_S: Final = 2.0
LIMIT_S: Final = 60.0
_ALL: Final = "records of this host"


class Returning:
    """Runs in a thread of its own, until it has succeeded."""

    def __init__(self, *, networks: Networks, endpoints: Endpoints, directory: Directory,
                 service: EndpointService, reconciler: Reconciler) -> None:
        self._networks = networks
        self._endpoints = endpoints
        self._directory = directory
        self._service = service
        self._reconciler = reconciler
        # Until each has been dealt with: a first attempt may come half-way.
        self._lost: dict[EndpointId, Endpoint] = {}
        self._left: set[Vni] = set()
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
        self._left |= {network.vni for network in self._networks.reread()}
        for endpoint in list(self._lost.values()):
            self._service.restore_or_give_up(endpoint)
            del self._lost[endpoint.id]
        for vni in self._left - {network.vni for network in self._networks.list()}:
            self._directory.unfollow(vni)
        self._left.clear()
        # Links and maps of whatever is not on record any more.
        return self._reconciler.run()
