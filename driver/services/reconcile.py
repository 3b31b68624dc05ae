"""Owns bringing the kernel in line with the records when the driver starts.

`plan` is pure; `Reconciler.run` looks, plans and applies.  It must not know how anything is made,
and touches nothing before the records could be read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from driver.errors import SlimError
from driver.model import Endpoint, EndpointId
from driver.services.endpoints import EndpointService
from driver.services.ports import (
    Datapath,
    Directory,
    DirectoryListener,
    Endpoints,
    Links,
    Sandboxes,
    Veth,
)
from driver.services.ports import Networks as NetworkRecords

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What differs between records and kernel."""

    adopt: tuple[EndpointId, ...]  # joined, and their link is there
    strays: tuple[str, ...]  # links (host's ends) of no endpoint
    dead_sandboxes: tuple[int, ...]  # cookies in the maps of no joined endpoint's sandbox


def plan(endpoints: Sequence[Endpoint], veths: Mapping[str, Veth],
         veth_name: Callable[[EndpointId], str], known_cookies: Collection[int],
         wanted_cookies: Collection[int]) -> Plan:
    """Compare.  A joined endpoint without link is left alone: dockerd will leave and delete it."""
    names = {veth_name(endpoint.id) for endpoint in endpoints}
    return Plan(
        adopt=tuple(endpoint.id for endpoint in endpoints
                    if endpoint.sandbox_key and veth_name(endpoint.id) in veths),
        strays=tuple(sorted(veths.keys() - names)),
        dead_sandboxes=tuple(sorted(set(known_cookies) - set(wanted_cookies))))


class Reconciler:
    """Runs once after the start, as soon as etcd can be read."""

    def __init__(self, *, networks: NetworkRecords, endpoints: Endpoints, links: Links,
                 sandboxes: Sandboxes, datapath: Datapath, directory: Directory,
                 listener: DirectoryListener, service: EndpointService,
                 sandbox_cookies: Callable[[], Collection[int]]) -> None:
        self._networks = networks
        self._endpoints = endpoints
        self._links = links
        self._sandboxes = sandboxes
        self._datapath = datapath
        self._directory = directory
        self._listener = listener
        self._service = service
        self._sandbox_cookies = sandbox_cookies

    def run(self) -> None:
        """Follow all networks, take over what runs, remove what belongs to nobody.

        Error: StoreUnavailable, and then nothing has been removed.  A step that fails for
        one object is logged and does not keep the others.
        """
        # Kernel first, then records: what was made in between is then never taken for a stray.
        veths = self._links.list_veths()
        cookies = self._sandbox_cookies()
        endpoints = self._endpoints.list()
        networks = self._networks.list()
        wanted = {self._sandboxes.cookie(key)
                  for key in {endpoint.sandbox_key for endpoint in endpoints} if key}
        steps = plan(endpoints, veths, self._links.veth_name, cookies,
                     {cookie for cookie in wanted if cookie is not None})
        for network in networks:
            self._directory.follow(network.vni, self._listener)
        for cookie in steps.dead_sandboxes:
            self._try("withdraw dead sandbox", self._datapath.withdraw_sandbox, cookie)
        for endpoint_id in steps.adopt:
            self._try(f"take over endpoint {endpoint_id[:12]}", self._service.adopt, endpoint_id)
        for name in steps.strays:
            log.warning("removing stray link %s", name)
            self._try(f"remove link {name}", self._links.delete_veth_named, name)
        log.info("%d networks, %d endpoints: %d taken over, %d stray links and %d dead sandboxes "
                 "removed", len(networks), len(endpoints), len(steps.adopt), len(steps.strays),
                 len(steps.dead_sandboxes))

    def _try(self, what: str, act: Callable[..., object], *arguments: object) -> None:
        try:
            act(*arguments)
        except SlimError as error:
            log.error("%s: %s", what, error)
