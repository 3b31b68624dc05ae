"""Owns the making of all concrete parts and their order at start and stop; nothing else does.

It must not decide anything that a service should.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from driver import __version__, deadline, host, memory
from driver.api.app import create_app
from driver.api.control import Control
from driver.api.ipam_driver import IpamDriver
from driver.api.network_driver import NetworkDriver
from driver.api.server import ApiServer, Listener
from driver.compose.kernel import UnderlayState, build_kernel, guard_parts, handover_parts
from driver.compose.parts import Driver, Part, nothing
from driver.datapath.programs import FROM_WIRE, TO_CONTAINER
from driver.engine.docker import DockerEngine
from driver.engine.swarm import DockerSwarm
from driver.errors import StoreUnavailable
from driver.forget import remove_records
from driver.ipam import pools
from driver.ipam.pools import Supernet
from driver.link import filters, netkit
from driver.link.carrier import CarrierMonitor
from driver.link.joins import FiledJoins
from driver.link.probe import UnderlayProber
from driver.link.sandbox import KernelSandboxes
from driver.link.teardowns import FiledTeardowns
from driver.link.underlay import UnderlayWatcher, find_underlay, routed_networks
from driver.link.veth import Veths, probe_kind
from driver.link.vxlan import create_vxlan
from driver.model import Absence, EndpointId, Host
from driver.services.addresses import AddressService
from driver.services.background import Recovery, Repeater
from driver.services.collect import Collector, Removals
from driver.services.endpoint_links import EndpointLinks
from driver.services.endpoint_ports import EndpointPorts
from driver.services.endpoints import EndpointService
from driver.services.host_watch import INTERVAL_S as HOST_WATCH_S
from driver.services.host_watch import HostWatch
from driver.services.joined import JoinedEndpoints
from driver.services.later import Later
from driver.services.networks import NetworkService
from driver.services.publisher import Publisher
from driver.services.reconcile import Reconciler
from driver.services.returning import Returning
from driver.services.sandboxes import Finisher
from driver.services.service_mirror import ServiceMirror
from driver.services.service_publisher import ServicePublisher
from driver.settings import Settings
from driver.store import keys
from driver.store.absences import EtcdAbsences
from driver.store.address_book import EtcdAddressBook
from driver.store.client import EtcdKeyValue, EtcdSettings
from driver.store.directory import EtcdDirectory
from driver.store.endpoints import EtcdEndpoints
from driver.store.fence import FencedKeyValue
from driver.store.hosts import EtcdHosts, Return
from driver.store.networks import EtcdNetworks
from driver.store.recall import RecallingKeyValue
from driver.store.services import EtcdServiceFeed, EtcdServiceRecords

log = logging.getLogger("slim")
REMOVALS_S = 5.0  # between attempts at what a removal left, etcd having been away
STATUS_S = 2.0  # for etcd's answer when the status is asked for
MEMORY_S = 30.0  # between collections of garbage that nobody waits for


def build_everything(settings: Settings, moved: Callable[[], None]) -> Driver:
    """Make all parts.  Finds the underlay and compiles the programs: 1 to 5 s.

    moved: called from another thread when the underlay has another address or device: all has
    to be made again.
    Errors: SettingsError, LinkError, DatapathError.
    """
    # Before anything in the kernel is touched that another driver may be using.
    lock = host.lock_state(Path(settings.state))
    listener = Listener(settings.socket)
    try:
        return _build(settings, moved, lock, listener)
    except BaseException:
        listener.close()
        raise


def _build(  # noqa: PLR0915 - one list, each part after those that it needs
        settings: Settings, moved: Callable[[], None], lock: int, listener: Listener) -> Driver:
    me = host.host_id(Path(settings.state))
    kv = EtcdKeyValue(EtcdSettings(
        settings.etcd, ca=settings.etcd_ca, cert=settings.etcd_cert, key=settings.etcd_key,
        user=settings.etcd_user, password=_password(settings.etcd_password_file)))
    underlay = UnderlayState(find_underlay(settings.underlay), moved)
    this_host = Host(me, socket.gethostname(), underlay.found.address)
    vxlan = create_vxlan(settings.vxlan_port, underlay.overlay_mtu())

    def netns_path(sandbox_key: str) -> str:
        return settings.netns_dir + sandbox_key

    kernel = build_kernel(settings, underlay.found, vxlan, netns_path)
    loaded, datapath = kernel.loaded, kernel.datapath

    fenced = FencedKeyValue(kv, me)
    store = RecallingKeyValue(fenced)
    networks = EtcdNetworks(store, me)
    records = EtcdEndpoints(store, me, networks)
    endpoints = JoinedEndpoints(records, FiledJoins(Path(settings.state)))
    directory = EtcdDirectory(kv)
    links = Veths(settings.pair_kind)
    if settings.pair_kind == netkit.KIND:  # else it would be said at each Join
        probe_kind(settings.pair_kind)
    sandboxes = KernelSandboxes(ingress_program_fd=loaded.programs[TO_CONTAINER.name],
                                path_of=netns_path)

    # These two call back into what needs them to be made.
    def offer_host_path(endpoint_id: EndpointId, offered: bool) -> None:
        endpoint_service.offer_host_path(endpoint_id, offered)

    def change_link(endpoint_id: EndpointId) -> None:
        endpoint_links.work(endpoint_id)

    linking = Later(change_link, threads=4, name="links")
    endpoint_links = EndpointLinks(links, sandboxes, linking.submit)
    finisher = Finisher(sandboxes=sandboxes, datapath=datapath,
                        unfinished=FiledTeardowns(Path(settings.state)),
                        underlay=underlay.found.address, overlay_mtu=underlay.overlay_mtu,
                        offer_host_path=offer_host_path)
    publisher = Publisher(datapath, me)
    ports = EndpointPorts(settings.port_range.first, settings.port_range.last)
    endpoint_service = EndpointService(
        host=this_host, networks=networks, endpoints=endpoints, links=endpoint_links,
        datapath=publisher, finisher=finisher, ports=ports, random_bytes=os.urandom,
        underlay_mtu=underlay.mtu)
    service_feed = EtcdServiceFeed(kv)
    services = ServiceMirror(service_feed, datapath)
    network_service = NetworkService(networks, directory, publisher, endpoint_service, services)
    addresses = AddressService(EtcdAddressBook(store), me, supernets=_supernets(settings),
                               routed=routed_networks, underlay=underlay.found.address)
    reconciler = Reconciler(
        networks=networks, endpoints=endpoints, links=links, sandboxes=sandboxes,
        finisher=finisher, pinned=datapath, directory=directory, listener=publisher,
        service=endpoint_service, services=services)
    recovery = Recovery(reconciler)
    returning = Returning(networks=networks, endpoints=endpoints, directory=directory,
                          services=services, service=endpoint_service, reconciler=reconciler)
    hosts = EtcdHosts(kv, return_after_s=settings.return_addresses_after, on_return=Return(
        complete=partial(remove_records, kv), forgotten=returning.ask))
    absences = EtcdAbsences(kv)
    prober = UnderlayProber()

    def remove(absence: Absence) -> None:
        remove_records(kv, absence)
        absences.finish(absence)

    host_watch = HostWatch(me=me, absences=absences, prober=prober,
                           refuse=datapath.refuse_hosts, remove=remove)
    watching = Repeater("watching hosts", host_watch.run, HOST_WATCH_S)
    removals = Repeater("unfinished removals", network_service.finish_removals, REMOVALS_S)
    refused = Repeater("directory's refused entries", publisher.retry, REMOVALS_S)
    refused_services = Repeater("services' refused entries", services.retry, REMOVALS_S)
    swarm = DockerSwarm(settings.docker_socket)
    publishing = ServicePublisher(swarm, EtcdServiceRecords(fenced, me))
    publishing_services = Repeater("services", publishing.run, publishing.pause_s)

    def settle() -> None:
        for part in (networks, records, addresses):
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
        create_vxlan(settings.vxlan_port, underlay.overlay_mtu())
        finisher.refresh()

    underlay.on_mtu = change_mtu

    def status() -> Mapping[str, str]:
        counts = finisher.counts()
        return {
            "version": __version__, "host": f"{this_host.name} {me}",
            "underlay": f"{underlay.found.address} on {underlay.found.name}, MTU {underlay.mtu()}",
            "etcd": _reach(kv, settings), "recovery": recovery.state(),
            "directory": f"{publisher.directory_size()} endpoints",
            "services": f"{services.count()} addresses, {publishing.describe()}",
            "ports": f"{ports.in_use()} endpoint ports in use",
            "hosts": host_watch.describe(),
            "guard": kernel.guarding.state(),
            "sandboxes": f"{counts.finished} finished, {counts.failed_attempts} failed attempts, "
                         f"{counts.given_up} given up"}

    api = ApiServer(create_app(
        NetworkDriver(network_service, endpoint_service, addresses, settings.scope),
        IpamDriver(addresses),
        Control(datapath.counters, status)), settings.socket, listener=listener)
    return Driver([
        Part("state folder", nothing, lambda: os.close(lock)),
        Part("socket", nothing, listener.close),
        Part("etcd client", nothing, kv.close),
        Part("programs", nothing, loaded.close),
        Part("datapath", lambda: datapath.start(underlay.found.ifindex, vxlan), datapath.stop),
        Part("underlay of before", lambda: filters.detach_elsewhere(
            f"slim_{FROM_WIRE.name}", underlay.found.ifindex), nothing),
        *guard_parts(kernel.guarding),
        Part("underlay watcher", watcher.start, watcher.stop),
        Part("sandbox finisher", finisher.start, finisher.stop),
        Part("carrier monitor", carrier.start, carrier.stop),
        Part("links", linking.start, lambda: linking.stop(drain=True)),
        Part("memory", housekeeping.start, housekeeping.stop),
        Part("directory", nothing, directory.close),
        Part("services", nothing, service_feed.close),
        Part("recovery", recovery.start, recovery.stop),
        *handover_parts(kernel, recovery),
        Part("unfinished removals", removals.start, removals.stop),
        Part("settling", settling.start, settling.stop),
        Part("refused entries", refused.start, refused.stop),
        Part("collecting", *((collecting.start, collecting.stop) if settings.docker_socket
                             else (nothing, nothing))),
        Part("refused services", refused_services.start, refused_services.stop),
        Part("Docker's swarm", nothing, swarm.close),
        Part("publishing", nothing, publishing.stop),
        Part("publishing services", *(
            (publishing_services.start, publishing_services.stop) if settings.docker_socket
            else (nothing, nothing))),
        Part("returning", returning.start, returning.stop),
        Part("host watch", lambda: hosts.follow(host_watch.hosts_changed), prober.close),
        Part("watching hosts", watching.start, watching.stop),
        Part("host registration", lambda: hosts.register(this_host), hosts.close),
        # Last: a call that arrives finds everything in place.
        Part("API", api.start, api.stop)])


def _reach(kv: EtcdKeyValue, settings: Settings) -> str:
    try:
        with deadline.limit(STATUS_S):
            return f"answers, {kv.count(keys.HOSTS)} hosts registered"
    except StoreUnavailable as error:
        return f"{','.join(settings.etcd)}: {error}"


def _password(path: str) -> str | Callable[[], str]:
    # Read now, to say at start what is wrong, and again at each login.
    return partial(host.read_password, path) if host.read_password(path) else ""


def _supernets(settings: Settings) -> tuple[Supernet, ...]:
    return (pools.parse_supernet(str(settings.supernet), pools.POOL_PREFIXLEN),
            pools.parse_supernet(pools.SUPERNET6, pools.POOL6_PREFIXLEN))
