"""Owns making this host what etcd says it is: after a start, a crash, a reboot.

The plan is pure and says what has to happen; applying it uses the same services as dockerd's
own calls.  It must not know etcd, netlink or maps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from driver.model import Endpoint, Network, NetworkId, Vni
from driver.services.endpoint_ports import EndpointPorts
from driver.services.endpoints import EndpointService
from driver.services.ports import (
    Datapath,
    Directory,
    DirectoryListener,
    Endpoints,
    Links,
    Networks,
    SandboxFinisher,
    Veth,
)
from driver.services.undo import Step, run_all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What to do so that the host equals the store."""

    adopt: tuple[tuple[Endpoint, Veth], ...] = ()  # joined, and its link is there
    # Joined, but its link is gone: the host was restarted, or dockerd died while we were
    # away.  dockerd gives a container a new endpoint at each start, so it never comes back.
    abandon: tuple[Endpoint, ...] = ()
    remove_links: tuple[str, ...] = ()  # of no endpoint that is joined
    withdraw_ifindexes: tuple[int, ...] = ()  # in the maps, but no link of ours
    follow: tuple[Vni, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there that would have to go."""
        return not (self.abandon or self.remove_links or self.withdraw_ifindexes)


def plan(networks: Sequence[Network], endpoints: Sequence[Endpoint], veths: Mapping[str, Veth],
         published: Collection[int], name_of: Callable[[Endpoint], str]) -> Plan:
    """Compare what etcd wants (`networks`, `endpoints`) with what the kernel has.

    veths: by the host's end's name.  published: ifindexes that the maps let send.
    Endpoints that were created but not joined have no link, and need none.
    """
    known: set[NetworkId] = {network.id for network in networks}
    adopt: list[tuple[Endpoint, Veth]] = []
    abandon: list[Endpoint] = []
    unclaimed = dict(veths)
    for endpoint in endpoints:
        veth = veths.get(name_of(endpoint))
        if endpoint.sandbox_key and veth is not None and endpoint.network_id in known:
            adopt.append((endpoint, veth))
            unclaimed.pop(veth.host_name, None)
        elif endpoint.sandbox_key or endpoint.network_id not in known:
            abandon.append(endpoint)
    alive = {veth.host_ifindex for _, veth in adopt}
    return Plan(tuple(adopt), tuple(abandon), tuple(sorted(unclaimed)),
                tuple(sorted(set(published) - alive)),
                tuple(sorted({network.vni for network in networks})))


class Reconciler:
    """Reads both sides and applies the plan."""

    def __init__(self, *, networks: Networks, endpoints: Endpoints, links: Links,
                 datapath: Datapath, finisher: SandboxFinisher, directory: Directory,
                 listener: DirectoryListener, ports: EndpointPorts,
                 service: EndpointService) -> None:
        self._networks = networks
        self._endpoints = endpoints
        self._links = links
        self._datapath = datapath
        self._finisher = finisher
        self._directory = directory
        self._listener = listener
        self._ports = ports
        self._service = service

    def reconcile(self) -> Plan:
        """Make the host equal to the store; return what was done.

        Every step is tried; the first failure is raised at the end.  Must not run while
        dockerd's calls are served.  Errors: StoreUnavailable, LinkError, DatapathError.
        """
        endpoints = self._endpoints.list()
        self._ports.restore(endpoints)
        done = plan(self._networks.list(), endpoints, self._links.list_veths(),
                    self._datapath.endpoint_ifindexes(),
                    lambda endpoint: self._links.veth_name(endpoint.id))
        run_all(self._steps(done))
        log.info("reconciled: %d networks, %d endpoints taken over, %d abandoned, %d links "
                 "removed", len(done.follow), len(done.adopt), len(done.abandon),
                 len(done.remove_links))
        return done

    def _steps(self, done: Plan) -> list[Step]:
        steps: list[Step] = []
        for endpoint, veth in done.adopt:
            steps.append((f"take over endpoint {endpoint.id[:12]}",
                          partial(self._adopt, endpoint, veth)))
        for endpoint in done.abandon:
            steps.append((f"abandon endpoint {endpoint.id[:12]}",
                          partial(self._service.delete_endpoint, endpoint.network_id,
                                  endpoint.id)))
        for name in done.remove_links:
            steps.append((f"remove link {name}", partial(self._links.delete_veth_named, name)))
        for ifindex in done.withdraw_ifindexes:
            steps.append((f"withdraw interface {ifindex}",
                          partial(self._datapath.withdraw_interface, ifindex)))
        for vni in done.follow:
            steps.append((f"follow network {vni}",
                          partial(self._directory.follow, vni, self._listener)))
        return steps

    def _adopt(self, endpoint: Endpoint, veth: Veth) -> None:
        self._datapath.publish_endpoint(endpoint, veth)
        self._finisher.expect(endpoint, veth)
