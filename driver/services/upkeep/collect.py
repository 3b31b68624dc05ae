"""Removes what Docker has forgotten: its calls get lost, and it repeats none of them.

`forgotten` is pure.  A Collector removes what was forgotten at two looks that are far enough apart
for any call in between to have finished.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from driver.errors import EngineUnavailable, SlimError
from driver.model import Endpoint, Network
from driver.services.addresses.local_uses import Held, LocalUses, Requested
from driver.services.addresses.service import AddressService
from driver.services.endpoints.lifecycle import EndpointService
from driver.services.networks.lifecycle import NetworkService
from driver.services.ports import Endpoints, Engine, EngineView, Links, Networks, Sandboxes

log = logging.getLogger(__name__)

# In the order of Docker's own calls: endpoints, addresses, pools, networks.
Leftover = Endpoint | Held | Requested | Network


def forgotten(endpoints: Sequence[Endpoint], networks: Sequence[Network], uses: LocalUses,
              view: EngineView) -> list[Leftover]:
    """Return what this host has in the store but its dockerd does not know."""
    found: list[Leftover] = [e for e in endpoints if e.id not in view.endpoints]
    found += [held for held in uses.held if held.address not in view.addresses]
    by_pool: dict[tuple[str, str], list[Requested]] = defaultdict(list)
    for requested in uses.requested:
        by_pool[requested.name.cidr, requested.name.sub_pool].append(requested)
    for pool, requests in by_pool.items():
        # Docker's requests have no ids: as many are in use as it has networks.  The oldest
        # ones go, since a later release ends the newest one.
        found += requests[:max(0, len(requests) - view.pools.get(pool, 0))]
    with_endpoints = {endpoint.network_id for endpoint in endpoints}
    found += [network for network in networks
              if network.id not in view.networks and network.id not in with_endpoints]
    return found


@dataclass(frozen=True)
class Removals:
    """The use cases that remove."""

    endpoints: EndpointService
    networks: NetworkService
    addresses: AddressService


class Collector:
    """Removes what was forgotten.  `run` is called at intervals, in a separate thread."""

    def __init__(self, *, engine: Engine, networks: Networks, endpoints: Endpoints, links: Links,
                 sandboxes: Sandboxes, removals: Removals, after_s: float,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """after_s: for how long Docker must not have known something.  clock: seconds."""
        self._engine = engine
        self._networks = networks
        self._endpoints = endpoints
        self._links = links
        self._sandboxes = sandboxes
        self._removals = removals
        self._after_s = after_s
        self._clock = clock
        self._since: dict[object, float] = {}  # left-over -> when it was first seen as one
        self._asked = True  # the last look at Docker went well

    def run(self) -> None:
        """Look once, and remove what is due.  Error: StoreUnavailable."""
        # Ours first: what is created in between is then never taken for forgotten.
        endpoints, networks = self._endpoints.list(), self._networks.list()
        uses = self._removals.addresses.local_uses()
        try:
            view = self._engine.look()
        except EngineUnavailable as error:
            log.log(logging.WARNING if self._asked else logging.DEBUG,
                    "what Docker has forgotten is not collected: %s", error)
            self._asked = False
            return
        self._asked = True
        now_s = self._clock()
        found = {_identity(item): item for item in forgotten(endpoints, networks, uses, view)
                 if not (isinstance(item, Endpoint) and self._lives(item))}
        self._since = {key: self._since.get(key, now_s) for key in found}
        for key, item in found.items():
            if now_s - self._since[key] >= self._after_s:
                self._remove(item)

    def _lives(self, endpoint: Endpoint) -> bool:
        # Whatever Docker says, a running container is not cut off.
        return bool(endpoint.sandbox_key) and self._links.get_veth(endpoint.id) is not None and (
            self._sandboxes.cookie(endpoint.sandbox_key) is not None)

    def _remove(self, item: Leftover) -> None:
        what, act = self._removal(item)
        log.warning("collecting %s, which Docker does not know of", what)
        try:
            act()
        except SlimError as error:  # found again at the next look
            log.error("collecting %s: %s", what, error)

    def _removal(self, item: Leftover) -> tuple[str, Callable[[], None]]:
        match item:
            case Endpoint():
                return f"endpoint {item.id[:12]}", partial(
                    self._removals.endpoints.delete_endpoint, item.network_id, item.id)
            case Held():
                return f"address {item.address}", partial(
                    self._removals.addresses.withdraw_held, item)
            case Requested():
                return f"a request of pool {item.name.id}", partial(
                    self._removals.addresses.withdraw_requested, item)
            case Network():
                return f"network {item.id[:12]}", partial(
                    self._removals.networks.delete_network, item.id)


def _identity(item: Leftover) -> object:
    """Return what identifies the item as long as it is left over."""
    return ("endpoint", item.id, item.sandbox_key) if isinstance(item, Endpoint) else item
