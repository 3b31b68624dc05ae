"""Owns the making of all concrete parts and their order at start and stop; nothing else does.

It must not decide anything that a service should.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from driver import __version__, deadline, host, memory
from driver.api.app import create_app
from driver.api.control import Control
from driver.api.ipam_driver import IpamDriver
from driver.api.network_driver import NetworkDriver
from driver.api.server import ApiServer, Listener
from driver.compose.claims import Claims
from driver.compose.kernel import (
    HostPorts,
    UnderlayState,
    build_kernel,
    guard_parts,
    handover_parts,
)
from driver.compose.parts import Driver, Part, nothing
from driver.compose.peers import build_peers
from driver.compose.refusing import refuse_who_waits
from driver.compose.uncertainty import build_uncertainty
from driver.compose.watching import (
    build_withholding,
    host_link_parts,
    withholding_parts,
)
from driver.datapath.programs import FROM_WIRE, TO_CONTAINER
from driver.engine.docker import DockerEngine
from driver.engine.swarm import DockerSwarm, DockerSwarmUsers
from driver.errors import SlimError, StoreUnavailable
from driver.forget import remove_records
from driver.ipam import pools
from driver.ipam.pools import Supernet
from driver.later import Later
from driver.link import filters, netkit
from driver.link.carrier import CarrierMonitor
from driver.link.fingerprint import fingerprint
from driver.link.joins import FiledJoins
from driver.link.owner import device_alias
from driver.link.routed import routed_networks
from driver.link.sandbox import KernelSandboxes
from driver.link.teardowns import FiledTeardowns
from driver.link.underlay import UnderlayWatcher, find_underlay
from driver.link.veth import Veths, probe_kind
from driver.link.vxlan import create_vxlan
from driver.link.watch import NamespaceWatch
from driver.model import Absence, EndpointId, Host, HostId, Removal
from driver.ownership import own_id
from driver.services.addresses import AddressService
from driver.services.background import Recovery, Repeater
from driver.services.collect import Collector, Removals
from driver.services.endpoint_links import EndpointLinks
from driver.services.endpoint_ports import EndpointPorts
from driver.services.endpoints import EndpointService
from driver.services.entering import Entering
from driver.services.following import Following
from driver.services.holdings import Holdings
from driver.services.host_links import HostLinks
from driver.services.host_watch import INTERVAL_S as HOST_WATCH_S
from driver.services.host_watch import HostWatch
from driver.services.joined import JoinedEndpoints
from driver.services.networks import NetworkService
from driver.services.noted import NotedEndpoints, NotedNetworks
from driver.services.peers.index import PeerIndex
from driver.services.publisher import Publisher
from driver.services.reconcile import Reconciler
from driver.services.returning import give_up_everything
from driver.services.sandboxes import Finisher
from driver.services.service_mirror import ServiceMirror
from driver.services.service_publisher import ServicePublisher
from driver.services.swarm_holdings import SwarmHoldings
from driver.settings import Settings
from driver.state.notes import notes_of
from driver.store import health, keys
from driver.store.absences import EtcdAbsences
from driver.store.address_book import EtcdAddressBook
from driver.store.admitted import AdmittedKeyValue
from driver.store.client import EtcdKeyValue, EtcdSettings
from driver.store.cluster import ClusterKeyValue
from driver.store.directory import EtcdDirectory
from driver.store.endpoints import EtcdEndpoints
from driver.store.feeds import Feeds
from driver.store.fence import FencedKeyValue
from driver.store.hosts import EtcdHosts, HostFeed
from driver.store.kv import KeyValue
from driver.store.networks import EtcdNetworks
from driver.store.own_records import Own, OwnRecords
from driver.store.recall import RecallingKeyValue
from driver.store.registration import Return
from driver.store.services import EtcdServiceFeed, EtcdServiceRecords

log = logging.getLogger("slim")
REMOVALS_S = 5.0  # between attempts at what a removal left, etcd having been away
REMOVAL_LIMIT_S = 60.0  # for what a dead host has in etcd; the rest is done in the next turn
ADMISSION_S = 2.0  # for the first attempt to register, before anything else is written
STATUS_S = 2.0  # for etcd's answer when the status is asked for
MEMORY_S = 30.0  # between collections of garbage that nobody waits for


def build_everything(settings: Settings, moved: Callable[[], None], claims: Claims) -> Driver:
    """Make all parts.  Finds the underlay and compiles the programs: 1 to 5 s.

    moved: called from another thread when the underlay has another address or device: all has
    to be made again.
    Errors: SettingsError, LinkError, DatapathError.
    """
    with ExitStack() as held:
        held.callback(claims.close)
        failed = partial(refuse_who_waits, claims.listener)
        try:
            parts = _build(settings, moved, claims.listener)
        except SlimError as error:
            failed(error)
            raise
        return Driver([Part("this host, its state folder and socket", nothing,
                            held.pop_all().close), *parts], failed)


def _build(  # noqa: PLR0915 - one list, each part after those that it needs
        settings: Settings, moved: Callable[[], None], listener: Listener) -> list[Part]:
    me = own_id(settings)
    host_ports = HostPorts(settings)
    etcd = EtcdKeyValue(EtcdSettings(
        settings.etcd, ca=settings.etcd_ca, cert=settings.etcd_cert, key=settings.etcd_key,
        user=settings.etcd_user, password=_password(settings.etcd_password_file)))
    kv = ClusterKeyValue(etcd, host.ClusterFile(Path(settings.state)), host.new_cluster,
                         identity=lambda: etcd.cluster_id)
    underlay = UnderlayState(find_underlay(settings.underlay), moved)
    this_host = Host(me, socket.gethostname(), underlay.found.address, answers_probes=True)
    alias = device_alias(me, settings.bpffs)
    vxlan = create_vxlan(settings.vxlan_port, underlay.overlay_mtu(), alias=alias)

    def netns_path(sandbox_key: str) -> str:
        return settings.netns_dir + sandbox_key

    kernel = build_kernel(settings, underlay.found, vxlan, host_ports, netns_path)
    loaded, datapath = kernel.loaded, kernel.datapath

    known_before = host.ClusterFile(Path(settings.state)).get() is not None

    # Nothing is written in the name of a host that another machine is.
    def refusal() -> str:
        return hosts.refusal(ADMISSION_S)

    fenced = FencedKeyValue(AdmittedKeyValue(kv, refusal), me)
    store = RecallingKeyValue(fenced)
    network_records = EtcdNetworks(store, me)
    endpoint_records = EtcdEndpoints(store, me, network_records)
    notes = notes_of(Path(settings.state), me)
    networks = NotedNetworks(network_records, notes.networks)
    noted_endpoints = NotedEndpoints(endpoint_records, notes.endpoints)
    endpoints = JoinedEndpoints(noted_endpoints, FiledJoins(Path(settings.state)))
    feeds = Feeds(kv)
    directory = EtcdDirectory(feeds, kv)
    links = Veths(settings.pair_kind, me)
    if settings.pair_kind == netkit.KIND:  # else it would be said at each Join
        probe_kind(settings.pair_kind)
    sandboxes = KernelSandboxes(ingress_program_fd=loaded.programs[TO_CONTAINER.name],
                                path_of=netns_path)

    # These call back into what needs them to be made.
    def look_inside(sandbox_key: str) -> None:
        withholding.changed(sandbox_key)

    def offer_host_path(endpoint_id: EndpointId, offered: bool) -> None:
        endpoint_service.offer_host_path(endpoint_id, offered)

    def request_port(endpoint_id: EndpointId) -> int:
        return endpoint_service.request_port(endpoint_id)

    def change_link(endpoint_id: EndpointId) -> None:
        endpoint_links.work(endpoint_id)

    watch = NamespaceWatch(look_inside, netns_path)
    withholding = build_withholding(kernel, watch, underlay, networks, netns_path)
    linking = Later(change_link, threads=4, name="links")
    endpoint_links = EndpointLinks(links, sandboxes, linking.submit)
    finisher = Finisher(sandboxes=sandboxes, datapath=datapath,
                        unfinished=FiledTeardowns(Path(settings.state)),
                        underlay=underlay.found.address, overlay_mtu=underlay.overlay_mtu,
                        offer_host_path=offer_host_path, request_port=request_port,
                        withholding=withholding)
    withholding.repair, withholding.offer = finisher.repair, finisher.offer
    peer_index = PeerIndex()
    publisher = Publisher(datapath, me, peer_index, underlay=underlay.found.address)
    ports = EndpointPorts(*host_ports.endpoints)
    endpoint_service = EndpointService(
        host=this_host, networks=networks, endpoints=endpoints, links=endpoint_links,
        datapath=publisher, finisher=finisher, ports=ports, random_bytes=os.urandom,
        underlay_mtu=underlay.mtu)
    service_feed = EtcdServiceFeed(feeds, kv)
    services = ServiceMirror(service_feed, datapath)
    publisher.on_address = services.address_taken
    following = Following(networks, directory, publisher, services)
    network_service = NetworkService(networks, following, endpoint_service,
                                     routed=routed_networks)
    holdings = Holdings(me, notes.pools, notes.holds)
    addresses = AddressService(EtcdAddressBook(store), me, supernets=_supernets(settings),
                               routed=routed_networks, underlay=underlay.found.address,
                               holdings=holdings,
                               bury=lambda each: endpoint_service.bury(each, sandboxes.cookie))
    reconciler = Reconciler(
        networks=networks, endpoints=endpoints, links=links, sandboxes=sandboxes,
        finisher=finisher, pinned=datapath, following=following, listener=publisher,
        service=endpoint_service, services=services)
    recovery = Recovery(reconciler, network_records.on_record)
    absences = EtcdAbsences(kv)
    told_to_forget = host.Forgotten(Path(settings.state))

    def complete(absence: Absence) -> None:
        if not absence.done:
            remove_records(kv, absence)
        told_to_forget.begin()

    def may_enter() -> bool:
        """Whether this host is registered, and others are not just removing its records."""
        if not hosts.settled.is_set():
            return False
        absence = absences.get(me)
        return absence is None or absence.removal is Removal.NONE

    def give_up() -> None:
        if told_to_forget.is_begun():
            give_up_everything(networks, endpoints, endpoint_service, network_service, addresses)
            told_to_forget.end()

    hosts = EtcdHosts(kv, return_after_s=settings.return_addresses_after, on_return=Return(
        complete=complete, forgotten=lambda _removal: entering.ask(),
        unknown=lambda: f"{len(links.list_veths())} endpoints"),
        fingerprint=fingerprint(underlay.found.mac), known_before=known_before)
    entering = Entering(networks=networks, endpoints=endpoints, addresses=addresses,
                        service=endpoint_service, network_service=network_service,
                        may_begin=may_enter, before=give_up)
    noted_endpoints.on_missing = lambda _endpoint_id: entering.ask()
    publisher.on_own_missing = entering.ask
    own_records = OwnRecords(feeds, me, Own(
        has_endpoint=lambda each: noted_endpoints.get(each) is not None, networks=networks.list,
        has_pool=holdings.has_pool, has_address=holdings.has, has_owner=holdings.has_owner),
        entering.ask)

    def remove(absence: Absence) -> None:
        remove_records(kv, absence, speak=True)
        absences.finish(absence)

    def look_at_records(act: Callable[[], None]) -> None:
        with deadline.limit(REMOVAL_LIMIT_S):
            act()

    absent: Later[Callable[[], None]] = Later(look_at_records, threads=1, name="absent hosts")
    peers = build_peers(settings, underlay.found, loaded, clients=host_ports.clients,
                        index=peer_index, recovery=recovery)
    host_watch = HostWatch(me=me, absences=absences, prober=peers.signs,
                           refuse=datapath.refuse_hosts, remove=remove, apart=absent.submit)
    watching = Repeater("watching hosts", host_watch.run, HOST_WATCH_S)

    uncertain = build_uncertainty(
        kv, me, feeds, publisher=publisher, services=services, directory=directory,
        records=endpoint_records, endpoints=endpoints, links=links, ready=entering.is_complete)

    def hosts_changed(live: dict[HostId, Host]) -> None:
        peers.watch.hosts_changed(live)
        host_watch.hosts_changed(live)
        uncertain.settling.hosts_changed(live)

    def follow_hosts() -> None:
        feeds.follow(keys.HOSTS, HostFeed(hosts_changed))

    removals = Repeater("unfinished removals", network_service.finish_removals, REMOVALS_S)
    refused = Repeater("directory's refused entries", publisher.retry, REMOVALS_S)

    def tend_services() -> None:
        services.retry()
        datapath.sweep_services()

    refused_services = Repeater("services' entries", tend_services, REMOVALS_S)
    swarm = DockerSwarm(settings.docker_socket)
    publishing = ServicePublisher(swarm, EtcdServiceRecords(fenced, me))
    swarm_holdings = SwarmHoldings(
        book=EtcdAddressBook(store), users=DockerSwarmUsers(settings.docker_socket),
        leads=publishing.leads, release_pool=addresses.withdraw_swarm_request,
        request_id=lambda: secrets.token_hex(6), after_s=settings.collect_after)
    publishing.on_loss = swarm_holdings.ask
    publishing_services = Repeater("services", publishing.run, publishing.pause_s)

    def settle() -> None:
        for part in (network_records, endpoint_records, addresses):
            part.settle()

    settling = Repeater("what etcd did not confirm", settle, REMOVALS_S)
    collector = Collector(
        engine=DockerEngine(settings.docker_socket), networks=networks, endpoints=endpoints,
        links=links, sandboxes=sandboxes, after_s=settings.collect_after,
        removals=Removals(endpoint_service, network_service, addresses))
    # Looked at several times before it is removed; the longest wait is half as much again.
    collecting = Repeater("collecting", collector.run, settings.collect_after / 2)
    housekeeping = Repeater("memory", memory.give_back, MEMORY_S)
    carrier = CarrierMonitor(finisher.carrier_up, finisher.carrier_down)
    watcher = UnderlayWatcher(settings.underlay, underlay.changed, underlay.found)

    def change_mtu() -> None:
        create_vxlan(settings.vxlan_port, underlay.overlay_mtu(), alias=alias)
        finisher.refresh()

    underlay.on_mtu = change_mtu

    def restore(ifindex: int) -> bool:
        # 0: some removals were missed.
        if ifindex in (0, vxlan) and create_vxlan(
                settings.vxlan_port, underlay.overlay_mtu(), vxlan, alias=alias) != vxlan:
            moved()  # the programs are loaded for the device
        return datapath.reattach(ifindex)

    def status() -> Mapping[str, str]:
        counts = finisher.counts()
        return {
            "version": __version__, "host": f"{this_host.name} {me}",
            "underlay": f"{underlay.found.address} on {underlay.found.name}, MTU {underlay.mtu()}",
            "etcd": _reach(kv, etcd, settings), "registration": hosts.describe(),
            "recovery": recovery.state(), "records": entering.describe(),
            "directory": "; ".join(filter(None, (f"{publisher.directory_size()} endpoints",
                                                 uncertain.settling.describe()))),
            "services": "; ".join(filter(None, (
                f"{services.count()} addresses, {publishing.describe()}",
                swarm_holdings.describe(), uncertain.settling.describe_services()))),
            "ports": "; ".join(filter(None, (f"{ports.in_use()} endpoint ports in use",
                                             host_ports.problem()))),
            "hosts": host_watch.describe(), "peers": peers.watch.describe(),
            "guard": kernel.guarding.state(),
            "host path": withholding.describe(),
            "sandboxes": f"{counts.finished} finished, {counts.failed_attempts} failed attempts, "
                         f"{counts.given_up} given up",
            "waiting": finisher.waiting() or "none: every sandbox has what it should"}

    api = ApiServer(create_app(
        NetworkDriver(network_service, endpoint_service, addresses, settings.scope),
        IpamDriver(addresses),
        Control(datapath.counters, status)), settings.socket, listener=listener)
    return [
        Part("etcd client", nothing, etcd.close),
        Part("programs", nothing, loaded.close),
        Part("reserved ports", host_ports.reserve, nothing),
        Part("datapath", lambda: datapath.start(underlay.found.ifindex, vxlan), datapath.stop),
        Part("underlay of before", lambda: filters.detach_elsewhere(
            f"slim_{FROM_WIRE.name}", underlay.found.ifindex), nothing),
        Part("namespaces", watch.start, watch.stop),
        *guard_parts(kernel.guarding, watch),
        *host_link_parts(HostLinks(restore), watch),
        *withholding_parts(withholding, settings.docker_socket),
        Part("underlay watcher", watcher.start, watcher.stop),
        Part("sandbox finisher", finisher.start, finisher.stop),
        Part("carrier monitor", carrier.start, carrier.stop),
        Part("links", linking.start, lambda: linking.stop(drain=True)),
        Part("memory", housekeeping.start, housekeeping.stop),
        Part("feeds", nothing, feeds.close),
        Part("directory", nothing, directory.close),
        Part("services", nothing, service_feed.close),
        # Before anything is brought in line with etcd: others may have removed records.
        Part("host registration", lambda: hosts.register(this_host), hosts.close),
        Part("recovery", recovery.start, recovery.stop),
        *handover_parts(kernel, recovery),
        Part("unfinished removals", removals.start, removals.stop),
        Part("settling", settling.start, settling.stop),
        Part("refused entries", refused.start, refused.stop),
        Part("collecting", *((collecting.start, collecting.stop) if settings.docker_socket
                             else (nothing, nothing))),
        Part("refused services", refused_services.start, refused_services.stop),
        Part("Docker's swarm", nothing, swarm.close),
        Part("swarm holdings", swarm_holdings.start, swarm_holdings.stop),
        Part("publishing", nothing, publishing.stop),
        Part("publishing services", *(
            (publishing_services.start, publishing_services.stop) if settings.docker_socket
            else (nothing, nothing))),
        Part("entering", entering.start, entering.stop),
        Part("own records", own_records.start, own_records.close),
        *uncertain.parts,
        *peers.parts,
        Part("host watch", follow_hosts, nothing),
        Part("absent hosts", absent.start, absent.stop),
        Part("watching hosts", watching.start, watching.stop),
        # Last: a call that arrives finds everything in place.
        Part("API", api.start, api.stop)]


def _reach(kv: KeyValue, etcd: EtcdKeyValue, settings: Settings) -> str:
    try:
        with deadline.limit(STATUS_S):
            kv.count(keys.HOSTS)  # it says if that is another cluster's
            return health.describe(etcd)
    except StoreUnavailable as error:
        return f"{','.join(settings.etcd)}: {error}"


def _password(path: str) -> str | Callable[[], str]:
    # Read now, to say at start what is wrong, and again at each login.
    return partial(host.read_password, path) if host.read_password(path) else ""


def _supernets(settings: Settings) -> tuple[Supernet, ...]:
    return (pools.parse_supernet(str(settings.supernet), pools.POOL_PREFIXLEN),
            pools.parse_supernet(pools.SUPERNET6, pools.POOL6_PREFIXLEN))
