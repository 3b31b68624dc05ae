"""Builds what endpoints need on this host: networks, links, sandboxes, and map entries.

address_parts.py builds their addresses.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from driver.compose.parts.ground import Ground
from driver.compose.parts.names import NameParts
from driver.compose.parts.part import Part
from driver.compose.parts.watching import build_withholding
from driver.datapath.code.programs import TO_CONTAINER
from driver.link.netlink.watch import INSIDE, OVER_IPV6, NamespaceWatch
from driver.link.pairs import netkit
from driver.link.pairs.carrier import CarrierMonitor
from driver.link.pairs.veth import Veths, probe_kind
from driver.link.sandbox.sandbox import KernelSandboxes
from driver.link.underlay.routed import routed_networks
from driver.model import EndpointId
from driver.services.directory.publisher import Publisher
from driver.services.endpoints.lifecycle import EndpointService
from driver.services.endpoints.links import EndpointLinks
from driver.services.endpoints.ports import EndpointPorts
from driver.services.networks.following import Following
from driver.services.networks.lifecycle import NetworkService
from driver.services.peers.index import PeerIndex
from driver.services.sandboxes.finisher import Finisher
from driver.services.sandboxes.withholding import Withholding
from driver.services.vips.mirror import VipMirror
from driver.state.teardowns import FiledTeardowns
from driver.work.tally import Tally


@dataclass(frozen=True)
class EndpointParts:
    """The use cases of networks and endpoints, and their parts."""

    links: Veths
    sandboxes: KernelSandboxes
    watch: NamespaceWatch
    withholding: Withholding
    finisher: Finisher
    carrier: CarrierMonitor
    ports: EndpointPorts
    peer_index: PeerIndex
    publisher: Publisher
    names: NameParts
    vips: VipMirror
    following: Following
    endpoints: EndpointService
    networks: NetworkService
    setups: Tally  # from a sandbox's carrier to its host path

    def sandbox_parts(self) -> list[Part]:
        """Return what works on links and sandboxes outside Docker's calls."""
        return [Part("carrier monitor", self.carrier.start, self.carrier.stop)]


def build_endpoints(ground: Ground) -> EndpointParts:
    """Build them.  Error: LinkError, if this kernel lacks the requested kind of pair."""
    settings, kernel, stores, underlay = (
        ground.settings, ground.kernel, ground.stores, ground.underlay)
    links = Veths(settings.pair_kind, ground.me)
    if settings.pair_kind == netkit.KIND:  # otherwise each Join would report it
        probe_kind(settings.pair_kind)
    sandboxes = KernelSandboxes(
        ingress_program_fd=kernel.loaded.programs[TO_CONTAINER.name], path_of=ground.netns_path)

    # These functions call objects that are built later, and that need the functions.
    def look_inside(sandbox_key: str) -> None:
        withholding.changed(sandbox_key)

    def offer_host_path(endpoint_id: EndpointId, offered: bool, takes_ipv6: bool) -> None:
        endpoints.offer_host_path(endpoint_id, offered, takes_ipv6)

    def request_port(endpoint_id: EndpointId) -> int:
        return endpoints.request_port(endpoint_id)

    watch = NamespaceWatch(look_inside, ground.netns_path,
                           INSIDE if underlay.found.address4 else OVER_IPV6)
    withholding = build_withholding(kernel, watch, underlay, stores.networks, ground.netns_path)
    ledger = ground.ledger
    peer_index = PeerIndex(underlay.found.address.version)
    publisher = Publisher(kernel.datapath, ground.me, peer_index,
                          underlay=underlay.found.address, ledger=ledger)
    names = NameParts(ground, publisher)
    setups = Tally()
    finisher = Finisher(sandboxes=sandboxes, datapath=kernel.datapath,
                        teardowns=FiledTeardowns(Path(settings.state)),
                        underlay=underlay.host_path, overlay_mtu=underlay.overlay_mtu,
                        offer_host_path=offer_host_path, request_port=request_port,
                        withholding=withholding, names=names.serving, ledger=ledger,
                        took=setups.add)
    withholding.repair, withholding.offer = finisher.repair, finisher.offer
    ports = EndpointPorts(*ground.host_ports.endpoints)
    endpoints = EndpointService(
        host=ground.this_host, networks=stores.networks, endpoints=stores.endpoints,
        links=EndpointLinks(links, sandboxes, ledger), datapath=publisher, finisher=finisher,
        ports=ports, random_bytes=os.urandom, underlay_mtu=underlay.mtu,
        has_host_path=underlay.host_path is not None, ledger=ledger)
    names.set_names = endpoints.set_names
    vips = VipMirror(stores.vips, kernel.datapath, ledger)
    publisher.on_address = vips.address_taken
    following = Following(stores.networks, stores.directory, names.table, vips)
    return EndpointParts(
        links=links, sandboxes=sandboxes, watch=watch, withholding=withholding,
        finisher=finisher, carrier=CarrierMonitor(finisher.carrier_up, finisher.carrier_down),
        ports=ports, peer_index=peer_index, publisher=publisher, names=names, vips=vips,
        following=following, setups=setups,
        endpoints=endpoints, networks=NetworkService(
            stores.networks, following, endpoints, routed=routed_networks, ledger=ledger))
