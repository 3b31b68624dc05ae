"""Brings the kernel in line with what this host has when the driver starts.

`plan` is pure; `Reconciler.run` looks, plans and applies.  The notes say what this host has: etcd
need not answer.  An unknown object is removed only if the kernel shows that nobody uses it
(docs/decisions/0009); otherwise it is kept and reported.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from driver.errors import SlimError
from driver.model import Endpoint, EndpointId
from driver.services.endpoints.lifecycle import EndpointService
from driver.services.networks.following import Following
from driver.services.notes.own import OwnEndpoints
from driver.services.ports import (
    DirectoryListener,
    Links,
    Sandboxes,
    SandboxFinisher,
    Veth,
)
from driver.services.ports import Networks as NetworkRecords
from driver.services.vips.mirror import VipMirror

log = logging.getLogger(__name__)


class EndpointRecords(OwnEndpoints, Protocol):
    """The endpoints with the sandboxes that they are joined to; see joins.JoinedEndpoints."""

    def forget_strays(self, has_link: Callable[[EndpointId], bool]) -> None:
        """Forget the sandboxes of endpoints that this host does not have and whose link is gone."""


class Pinned(Protocol):
    """What an earlier driver has left in the kernel maps; part of the datapath."""

    def sandbox_cookies(self) -> Collection[int]:
        """Return the cookies of sandboxes that may use the host path."""

    def is_gone(self, cookie: int) -> bool:
        """Tell whether the kernel says that this namespace is gone."""

    def owned_ports(self) -> Collection[int]:
        """Return the endpoint ports that belong to a sandbox."""

    def withdraw_sandbox(self, cookie: int) -> None:
        """See ports.Datapath."""

    def endpoint_ifindexes(self) -> Collection[int]:
        """Return the ifindexes of the host's ends of veth pairs that may send."""

    def withdraw_interface(self, host_ifindex: int) -> None:
        """Remove the map entries of an interface whose endpoint is no longer known."""


@dataclass(frozen=True)
class Plan:
    """The differences between this host's endpoints and its kernel."""

    adopt: tuple[EndpointId, ...]  # joined endpoints whose link exists
    strays: tuple[str, ...]  # links (host's ends) without an endpoint that nobody can be using
    dead_sandboxes: tuple[int, ...]  # cookies in the maps whose namespace is gone
    dead_interfaces: tuple[int, ...]  # ifindexes in the maps without a link
    doubtful: tuple[str, ...]  # kept: without an endpoint, but alive


def plan(endpoints: Sequence[Endpoint], veths: Mapping[str, Veth],
         veth_name: Callable[[EndpointId], str], *, known_cookies: Collection[int],
         wanted_cookies: Collection[int], known_ifindexes: Collection[int],
         is_gone: Callable[[int], bool]) -> Plan:
    """Compare.  A joined endpoint without a link stays: dockerd will leave and delete it."""
    names = {veth_name(endpoint.id) for endpoint in endpoints}
    unknown = sorted(veths.keys() - names)
    used = [name for name in unknown if veths[name].carrier]
    ifindexes = {veth.host_ifindex for name, veth in veths.items() if name in names or name in used}
    cookies = sorted(set(known_cookies) - set(wanted_cookies))
    dead = [cookie for cookie in cookies if is_gone(cookie)]
    return Plan(
        adopt=tuple(endpoint.id for endpoint in endpoints
                    if endpoint.sandbox_key and veth_name(endpoint.id) in veths),
        strays=tuple(name for name in unknown if name not in used),
        dead_sandboxes=tuple(dead),
        dead_interfaces=tuple(sorted(set(known_ifindexes) - ifindexes)),
        doubtful=(*(f"link {name}" for name in used),
                  *(f"sandbox {cookie}" for cookie in cookies if cookie not in dead)))


class Reconciler:
    """Reconciles after the start, until everything has worked."""

    def __init__(self, *, networks: NetworkRecords, endpoints: EndpointRecords, links: Links,
                 sandboxes: Sandboxes, finisher: SandboxFinisher, pinned: Pinned,
                 following: Following, listener: DirectoryListener, service: EndpointService,
                 vips: VipMirror) -> None:
        self._networks = networks
        self._endpoints = endpoints
        self._links = links
        self._sandboxes = sandboxes
        self._finisher = finisher
        self._pinned = pinned
        self._following = following
        self._listener = listener
        self._service = service
        self._vips = vips
        self._running = threading.Lock()  # one look at a time
        self._said = ""
        self._doubtful: tuple[str, ...] = ()

    def run(self) -> bool:
        """Follow all networks, take over what runs and remove what certainly belongs to nobody.

        Return whether everything worked and nothing is in doubt.  Another run, even concurrent with
        Docker's calls, does the rest.  Errors: StateError, and StoreUnavailable if this host keeps
        no notes yet; then nothing has been removed.  A step that fails for one object is logged
        and does not keep the others from running.
        """
        with self._running:
            return self._run()

    def _run(self) -> bool:
        # Maps, links, endpoints: each is created after the next one.  In this order, what is
        # created in between is never taken for a stray.
        cookies, ifindexes = self._pinned.sandbox_cookies(), self._pinned.endpoint_ifindexes()
        veths = self._links.list_veths()
        endpoints = self._endpoints.list()
        networks = self._networks.list()
        wanted = {self._sandboxes.cookie(key)
                  for key in {endpoint.sandbox_key for endpoint in endpoints} if key}
        steps = plan(endpoints, veths, self._links.veth_name, known_cookies=cookies,
                     wanted_cookies={cookie for cookie in wanted if cookie is not None},
                     known_ifindexes=ifindexes, is_gone=self._pinned.is_gone)
        for network in networks:
            self._following.resume(network)
        self._service.restore_ports(self._pinned.owned_ports())
        worked = [
            *(self._try("withdraw dead sandbox", self._pinned.withdraw_sandbox, cookie)
              for cookie in steps.dead_sandboxes),
            *(self._try("withdraw dead interface", self._pinned.withdraw_interface, ifindex)
              for ifindex in steps.dead_interfaces),
            # Before the endpoint is published: its connections use this host's current address.
            *(self._try(f"enter the address of endpoint {endpoint.id[:12]}",
                        self._service.rehome, endpoint.id) for endpoint in endpoints),
            *(self._try(f"take over endpoint {endpoint_id[:12]}", self._service.adopt,
                        endpoint_id, veths[self._links.veth_name(endpoint_id)])
              for endpoint_id in steps.adopt),
            # After what runs was taken over: a sandbox may have been joined again.
            self._try("tear down what was left", self._finisher.resume_teardowns),
            self._try("forget sandboxes of no endpoint", self._endpoints.forget_strays,
                      lambda endpoint_id: self._links.get_veth(endpoint_id) is not None),
            *(self._try(f"remove stray link {name}", self._links.delete_veth_named, name)
              for name in steps.strays)]
        # By now no entry of a gone interface makes a network look like one of this host's.
        self._listener.followed({network.vni for network in networks})
        self._vips.followed(networks)
        self._say(steps, len(networks), len(endpoints))
        return all(worked) and not steps.doubtful

    def doubtful(self) -> Sequence[str]:
        """Return what the last look has kept although no endpoint of this host has it."""
        return self._doubtful

    def _say(self, steps: Plan, networks: int, endpoints: int) -> None:
        said = (f"{networks} networks, {endpoints} endpoints: {len(steps.adopt)} taken over; "
                f"removed: {len(steps.strays)} links, {len(steps.dead_sandboxes)} sandboxes, "
                f"{len(steps.dead_interfaces)} interfaces")
        if said != self._said:
            log.info("%s", said)
        self._said = said
        for what in set(steps.doubtful) - set(self._doubtful):
            log.warning("%s is in use, and no endpoint of this host has it: it is kept until its "
                        "namespace ends; was %s restored from another host, or emptied?", what,
                        "the state folder")
        self._doubtful = steps.doubtful

    def _try(self, what: str, act: Callable[..., object], *arguments: object) -> bool:
        try:
            act(*arguments)
        except SlimError as error:
            log.error("%s: %s", what, error)
            return False
        return True
