"""Owns bringing the kernel in line with the records when the driver starts.

`plan` is pure; `Reconciler.run` looks, plans and applies.  It must not know how anything is made,
and touches nothing before the records could be read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from driver.errors import SlimError
from driver.model import Endpoint, EndpointId
from driver.services.endpoints import EndpointService
from driver.services.ports import (
    Directory,
    DirectoryListener,
    Endpoints,
    Links,
    Sandboxes,
    SandboxFinisher,
    Veth,
)
from driver.services.ports import Networks as NetworkRecords
from driver.services.service_mirror import ServiceMirror

log = logging.getLogger(__name__)


class EndpointRecords(Endpoints, Protocol):
    """The endpoints, with the sandboxes that they are joined to; see joined.JoinedEndpoints."""

    def forget_strays(self) -> None:
        """Forget the sandboxes of endpoints that are on record no more."""


class Pinned(Protocol):
    """What is left in the kernel maps of the driver before; part of the datapath."""

    def sandbox_cookies(self) -> Collection[int]:
        """Sandboxes that may use the host path."""

    def withdraw_sandbox(self, cookie: int) -> None:
        """See ports.Datapath."""

    def endpoint_ifindexes(self) -> Collection[int]:
        """Host's ends of veth pairs that may send."""

    def withdraw_interface(self, host_ifindex: int) -> None:
        """Remove what the maps say of an interface, whose endpoint is not known any more."""


@dataclass(frozen=True)
class Plan:
    """What differs between records and kernel."""

    adopt: tuple[EndpointId, ...]  # joined, and their link is there
    strays: tuple[str, ...]  # links (host's ends) of no endpoint
    dead_sandboxes: tuple[int, ...]  # cookies in the maps of no joined endpoint's sandbox
    dead_interfaces: tuple[int, ...]  # ifindexes in the maps of no endpoint's link


def plan(endpoints: Sequence[Endpoint], veths: Mapping[str, Veth],
         veth_name: Callable[[EndpointId], str], *, known_cookies: Collection[int],
         wanted_cookies: Collection[int], known_ifindexes: Collection[int]) -> Plan:
    """Compare.  A joined endpoint without link is left alone: dockerd will leave and delete it."""
    names = {veth_name(endpoint.id) for endpoint in endpoints}
    ifindexes = {veth.host_ifindex for name, veth in veths.items() if name in names}
    return Plan(
        adopt=tuple(endpoint.id for endpoint in endpoints
                    if endpoint.sandbox_key and veth_name(endpoint.id) in veths),
        strays=tuple(sorted(veths.keys() - names)),
        dead_sandboxes=tuple(sorted(set(known_cookies) - set(wanted_cookies))),
        dead_interfaces=tuple(sorted(set(known_ifindexes) - ifindexes)))


class Reconciler:
    """Runs after the start, as soon as etcd can be read, until everything has worked."""

    def __init__(self, *, networks: NetworkRecords, endpoints: EndpointRecords, links: Links,
                 sandboxes: Sandboxes, finisher: SandboxFinisher, pinned: Pinned,
                 directory: Directory, listener: DirectoryListener, service: EndpointService,
                 services: ServiceMirror) -> None:
        self._networks = networks
        self._endpoints = endpoints
        self._links = links
        self._sandboxes = sandboxes
        self._finisher = finisher
        self._pinned = pinned
        self._directory = directory
        self._listener = listener
        self._service = service
        self._services = services

    def run(self) -> bool:
        """Follow all networks, take over what runs, remove what belongs to nobody.

        Return whether everything worked; running again, also beside Docker's calls, does the
        rest.  Error: StoreUnavailable, and then nothing has been removed.  A step that fails
        for one object is logged and does not keep the others.
        """
        # Maps, links, records: each is made after the next one.  What is made in between is
        # then never taken for a stray.
        cookies, ifindexes = self._pinned.sandbox_cookies(), self._pinned.endpoint_ifindexes()
        veths = self._links.list_veths()
        endpoints = self._endpoints.list()
        networks = self._networks.list()
        wanted = {self._sandboxes.cookie(key)
                  for key in {endpoint.sandbox_key for endpoint in endpoints} if key}
        steps = plan(endpoints, veths, self._links.veth_name, known_cookies=cookies,
                     wanted_cookies={cookie for cookie in wanted if cookie is not None},
                     known_ifindexes=ifindexes)
        for network in networks:
            self._directory.follow(network.vni, self._listener)
            self._services.follow(network)
        self._listener.followed({network.vni for network in networks})
        self._services.followed(networks)
        self._service.restore_ports()
        worked = [
            *(self._try("withdraw dead sandbox", self._pinned.withdraw_sandbox, cookie)
              for cookie in steps.dead_sandboxes),
            *(self._try("withdraw dead interface", self._pinned.withdraw_interface, ifindex)
              for ifindex in steps.dead_interfaces),
            # Before it is published: its connections use the address that this host has now.
            *(self._try(f"enter the address of endpoint {endpoint.id[:12]}",
                        self._service.rehome, endpoint.id) for endpoint in endpoints),
            *(self._try(f"take over endpoint {endpoint_id[:12]}", self._service.adopt,
                        endpoint_id, veths[self._links.veth_name(endpoint_id)])
              for endpoint_id in steps.adopt),
            # After what runs was taken over: a sandbox may have been joined again.
            self._try("tear down what was left", self._finisher.resume_teardowns),
            self._try("forget sandboxes of no endpoint", self._endpoints.forget_strays),
            *(self._try(f"remove stray link {name}", self._links.delete_veth_named, name)
              for name in steps.strays)]
        log.info("%d networks, %d endpoints: %d taken over; removed: %d links, %d sandboxes, "
                 "%d interfaces", len(networks), len(endpoints), len(steps.adopt),
                 len(steps.strays), len(steps.dead_sandboxes), len(steps.dead_interfaces))
        return all(worked)

    def _try(self, what: str, act: Callable[..., object], *arguments: object) -> bool:
        try:
            act(*arguments)
        except SlimError as error:
            log.error("%s: %s", what, error)
            return False
        return True
