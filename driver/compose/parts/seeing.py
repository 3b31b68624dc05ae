"""Builds what shows connections, follows them, and says which way one would take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from driver.compose.parts.endpoints import EndpointParts
from driver.compose.parts.ground import Ground
from driver.compose.parts.hosts import HostParts
from driver.compose.parts.part import Part
from driver.datapath.code.reasons import read_reasons
from driver.datapath.tables.events import KernelEvents
from driver.datapath.tables.lookups import MapLookups
from driver.datapath.tables.socket_names import StoredNames
from driver.link.sandbox.open_sockets import DiagSockets
from driver.model import HostAddress
from driver.services.ports import SocketFilter
from driver.services.seeing.aside import Aside
from driver.services.seeing.connections import Connections, Listing
from driver.services.seeing.flows import Flows
from driver.services.seeing.following import Following
from driver.services.seeing.refusals import Refusals
from driver.services.seeing.roster import Sources
from driver.services.seeing.telling import Telling
from driver.services.seeing.why import Answer, Inside, Why


@dataclass(frozen=True)
class Seeing:
    """What may be asked, and what else may look at the same; `part` reads the kernel's events."""

    sockets: Callable[[SocketFilter], Listing]
    why: Callable[[str, str], Answer]
    sources: Sources
    open_sockets: DiagSockets
    names: StoredNames
    lookups: MapLookups
    flows: Flows
    refusals: Refusals
    part: Part


def build_seeing(ground: Ground, endpoints: EndpointParts, hosts: HostParts) -> Seeing:
    """Build them.  Error: DatapathError."""
    stores, loaded, names = ground.stores, ground.kernel.loaded, endpoints.names

    def host_name(host: HostAddress) -> str:
        return hosts.uncertain.settling.name_of(host)

    reasons = read_reasons()
    lookups = MapLookups(loaded, [each.name for each in reasons])
    stored = StoredNames(loaded)
    sockets = DiagSockets(stored.descriptors, ground.netns_path)
    sources = Sources(
        endpoints=stores.endpoints.list, networks=stores.networks.list, view=names.view,
        table=names.table, host_name=host_name, underlay=ground.underlay.found.address)
    listing = Connections(sources, sockets, stored, lookups)
    reasoning = Why(sources, lookups, sockets, Inside(
        cookie=endpoints.sandboxes.cookie, meanings={each.name: each.meaning for each in reasons},
        detail=endpoints.withholding.detail,
        uses_host_path=endpoints.withholding.uses_host_path, trouble=hosts.peers.explain))
    aside = Aside()
    meanings = {each.name: each.meaning for each in reasons}
    telling = Telling(sources)
    refusals = Refusals(telling, meanings)
    events = KernelEvents(loaded, list(meanings))
    following = Following(events, refusals.note)

    def stop() -> None:
        following.stop()
        events.close()

    return Seeing(lambda wanted: aside.run(lambda: listing.list(wanted)),
                  lambda container, target: aside.run(lambda: reasoning.ask(container, target)),
                  sources, sockets, stored, lookups,
                  Flows(following, refusals, telling, meanings, endpoints.sandboxes.cookie),
                  refusals, Part("flows", following.start, stop))
