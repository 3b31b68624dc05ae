"""Builds this host's membership of the cluster: its registration, its records, the other hosts.

services/hosts and services/peers know which hosts are alive or gone, and what they are asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from driver.compose.parts.addresses import AddressParts
from driver.compose.parts.endpoints import EndpointParts
from driver.compose.parts.ground import Ground
from driver.compose.parts.part import Part, nothing
from driver.compose.parts.peers import build_peers
from driver.compose.parts.removal import remove_records
from driver.compose.parts.store import Stores
from driver.compose.parts.uncertainty import Uncertain, build_uncertainty
from driver.link.underlay.fingerprint import fingerprint
from driver.link.underlay.path_mtu import path_mtus
from driver.model import Absence, Host, HostId, Removal
from driver.services.hosts.families import Families
from driver.services.hosts.path_mtu import INTERVAL_S as PATH_MTU_S
from driver.services.hosts.path_mtu import PathMtu
from driver.services.hosts.watch import INTERVAL_S, HostWatch
from driver.services.peers.watch import PeerWatch
from driver.services.upkeep.comeback import give_up_everything
from driver.services.upkeep.entering import Entering
from driver.services.upkeep.recovery import Recovery
from driver.store.format import keys
from driver.store.hosts.registration import Return
from driver.store.hosts.registry import EtcdHosts, HostFeed
from driver.store.own_records import Own, OwnRecords
from driver.work import deadline
from driver.work.later import Later
from driver.work.repeater import Repeater

REMOVAL_LIMIT_S = 60.0  # for what a gone host has in etcd; the next run does the rest


@dataclass(frozen=True)
class HostParts:
    """This host in etcd, and what it knows of other hosts."""

    registry: EtcdHosts
    registration: Part
    entering: Entering
    uncertain: Uncertain
    watch: HostWatch
    peers: PeerWatch
    families: Families
    parts: tuple[Part, ...]


def build_registry(ground: Ground, endpoints: EndpointParts, entering: Callable[[], Entering]
                   ) -> EtcdHosts:
    """Build what registers this host; nothing is written in its name before that has worked."""
    stores = ground.stores

    def complete(absence: Absence) -> None:
        if not absence.done:
            remove_records(stores.kv, absence)
        stores.told_to_forget.begin()

    return EtcdHosts(
        stores.kv, return_after_s=ground.settings.return_addresses_after, on_return=Return(
            complete=complete, forgotten=lambda _removal: entering().ask(),
            unknown=lambda: f"{len(endpoints.links.list_veths())} endpoints"),
        fingerprint=fingerprint(ground.underlay.found.mac), known_before=stores.known_before)


def build_entering(ground: Ground, endpoints: EndpointParts, addresses: AddressParts,
                   registry: EtcdHosts) -> Entering:
    """Build what enters this host's records again when etcd has lost them."""
    stores = ground.stores

    def may_enter() -> bool:
        """Tell whether this host is registered, and others are not removing its records now."""
        if not registry.settled.is_set():
            return False
        absence = stores.absences.get(ground.me)
        return absence is None or absence.removal is Removal.NONE

    def give_up() -> None:
        if stores.told_to_forget.is_begun():
            give_up_everything(stores.networks, stores.endpoints, endpoints.endpoints,
                               endpoints.networks, addresses.addresses)
            stores.told_to_forget.end()

    entering = Entering(networks=stores.networks, endpoints=stores.endpoints,
                        addresses=addresses.addresses, service=endpoints.endpoints,
                        network_service=endpoints.networks, may_begin=may_enter, before=give_up)
    stores.noted_endpoints.on_missing = lambda _endpoint_id: entering.ask()
    endpoints.publisher.on_own_missing = entering.ask
    return entering


def build_hosts(ground: Ground, endpoints: EndpointParts, addresses: AddressParts, *,
                registry: EtcdHosts, recovery: Recovery) -> HostParts:
    """Build all of it except the registry; recovery: says when the peers are known."""
    me, kernel, stores = ground.me, ground.kernel, ground.stores
    entering = build_entering(ground, endpoints, addresses, registry)
    own_records = OwnRecords(stores.feeds, me, Own(
        has_endpoint=lambda each: stores.noted_endpoints.get(each) is not None,
        networks=stores.networks.list, has_pool=addresses.holdings.has_pool,
        has_address=addresses.holdings.has, has_owner=addresses.holdings.has_owner),
        entering.ask)

    def remove(absence: Absence) -> None:
        remove_records(stores.kv, absence, speak=True)
        stores.absences.finish(absence)

    def look_at_records(act: Callable[[], None]) -> None:
        with deadline.limit(REMOVAL_LIMIT_S):
            act()

    absent: Later[Callable[[], None]] = Later(look_at_records, threads=1, name="absent hosts")
    peers = build_peers(ground.settings, ground.underlay.found, kernel.loaded,
                        clients=ground.host_ports.clients, index=endpoints.peer_index,
                        recovery=recovery)
    families = Families(ground.underlay.found.address)
    watch = HostWatch(me=me, absences=stores.absences, prober=peers.signs,
                      reaches=families.reaches,
                      refuse=kernel.datapath.refuse_hosts, remove=remove, apart=absent.submit)
    watching = Repeater("watching hosts", watch.run, INTERVAL_S)
    uncertain = build_uncertainty(
        stores.kv, me, stores.feeds, publisher=endpoints.publisher, vips=endpoints.vips,
        directory=stores.directory, records=stores.endpoint_records, endpoints=stores.endpoints,
        links=endpoints.links, ready=entering.is_complete)

    underlay = ground.underlay
    path_mtu = Repeater("path MTU", PathMtu(path_mtus, families.hosts, underlay.lower).run,
                        PATH_MTU_S)

    def hosts_changed(live: dict[HostId, Host]) -> None:
        families.hosts_changed(live)
        peers.watch.hosts_changed(live)
        watch.hosts_changed(live)
        uncertain.settling.hosts_changed(live)

    return HostParts(
        registry, Part("host registration", lambda: registry.register(ground.this_host),
                       registry.close),
        entering, uncertain, watch, peers.watch, families, (
            Part("entering", entering.start, entering.stop),
            Part("own records", own_records.start, own_records.close),
            *uncertain.parts,
            *peers.parts,
            Part("host watch", lambda: _follow(stores, hosts_changed), nothing),
            Part("absent hosts", absent.start, absent.stop),
            *(() if underlay.found.address4 else (
                Part("path MTU", path_mtu.start, path_mtu.stop),)),
            Part("watching hosts", watching.start, watching.stop)))


def _follow(stores: Stores, changed: Callable[[dict[HostId, Host]], None]) -> None:
    stores.feeds.follow(keys.HOSTS, HostFeed(changed))
