"""Owns the making of all concrete parts and their order at start and stop; nothing else does.

It must not decide anything that a service should.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from driver import __version__, deadline, host, memory
from driver.api.app import create_app
from driver.api.control import Control
from driver.api.ipam_driver import IpamDriver
from driver.api.network_driver import NetworkDriver
from driver.api.server import ApiServer, ensure_free
from driver.datapath.attachments import Attachments
from driver.datapath.datapath import EbpfDatapath, pin_folder
from driver.datapath.load import Constants, load
from driver.datapath.programs import TO_CONTAINER
from driver.errors import StoreUnavailable
from driver.ipam import pools
from driver.ipam.pools import Supernet
from driver.link import filters
from driver.link.carrier import CarrierMonitor
from driver.link.names import HOST_PATH_MARK
from driver.link.sandbox import KernelSandboxes
from driver.link.underlay import Underlay, UnderlayWatcher, find_underlay, routed_networks
from driver.link.veth import Veths
from driver.link.vxlan import create_vxlan, overlay_mtu
from driver.model import EndpointId, Host
from driver.services.addresses import AddressService
from driver.services.background import Recovery, Repeater
from driver.services.endpoint_ports import EndpointPorts
from driver.services.endpoints import EndpointService
from driver.services.later import Later
from driver.services.networks import NetworkService
from driver.services.publisher import Publisher
from driver.services.reconcile import Reconciler
from driver.services.sandboxes import Finisher
from driver.settings import Settings
from driver.store import keys
from driver.store.address_book import EtcdAddressBook
from driver.store.client import EtcdKeyValue, EtcdSettings
from driver.store.directory import EtcdDirectory
from driver.store.endpoints import EtcdEndpoints
from driver.store.hosts import EtcdHosts
from driver.store.networks import EtcdNetworks

log = logging.getLogger("slim")
REMOVALS_S = 5.0  # between attempts at what a removal left, etcd having been away
STATUS_S = 2.0  # for etcd's answer when the status is asked for
MEMORY_S = 30.0  # between collections of garbage that nobody waits for


class _Filters:
    """driver.link.filters as the datapath wants it."""

    def attach(self, ifindex: int, program_fd: int, name: str) -> None:
        """See datapath.attachments.Filters."""
        filters.attach_ingress(ifindex, program_fd, name)

    def detach(self, ifindex: int) -> None:
        """See datapath.attachments.Filters."""
        filters.detach_ingress(ifindex)


class UnderlayState:
    """The underlay as it was found at start, with the MTU it has now."""

    def __init__(self, found: Underlay) -> None:
        self.found = found
        self._mtu = found.mtu

    def mtu(self) -> int:
        """MTU in bytes, of the underlay and so of containers' interfaces."""
        return self._mtu

    def overlay_mtu(self) -> int:
        """Bytes that the overlay path carries."""
        return overlay_mtu(self._mtu)

    def changed(self, found: Underlay | None) -> None:
        """Take news of the underlay.  The programs are compiled for the address at start."""
        if found is None:
            log.warning("underlay %s has gone", self.found.name)
        elif (found.address, found.ifindex) != (self.found.address, self.found.ifindex):
            log.error("underlay is now %s on %s, was %s on %s: restart the driver", found.address,
                      found.name, self.found.address, self.found.name)
        elif found.mtu != self._mtu:
            log.warning("underlay MTU is now %d, was %d: new endpoints get it", found.mtu,
                        self._mtu)
            self._mtu = found.mtu


@dataclass(frozen=True)
class Part:
    """Something that runs between start and stop."""

    name: str
    start: Callable[[], None]
    stop: Callable[[], None]


class Driver:
    """The running whole: parts are started in order, and stopped in reverse."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._started = ExitStack()

    def start(self) -> None:
        """Start all parts.  Error: SlimError; then what had started is stopped again."""
        with ExitStack() as started:
            for part in self._parts:
                part.start()
                started.callback(self._stop, part)
            self._started = started.pop_all()

    def stop(self) -> None:
        """Stop all parts; links, maps and programs stay, connections go on.  Idempotent."""
        self._started.close()

    @staticmethod
    def _stop(part: Part) -> None:
        try:
            part.stop()
        except Exception:
            log.exception("stopping %s failed", part.name)


def build_everything(settings: Settings) -> Driver:
    """Make all parts.  Finds the underlay and compiles the programs: 1 to 5 s.

    Errors: SettingsError, LinkError, DatapathError.
    """
    # Before anything in the kernel is touched that another driver may be using.
    lock = host.lock_state(Path(settings.state))
    ensure_free(settings.socket)
    me = host.host_id(Path(settings.state))
    kv = EtcdKeyValue(EtcdSettings(
        settings.etcd, ca=settings.etcd_ca, cert=settings.etcd_cert, key=settings.etcd_key,
        user=settings.etcd_user, password=host.read_password(settings.etcd_password_file)))
    underlay = UnderlayState(find_underlay(settings.underlay))
    this_host = Host(me, socket.gethostname(), underlay.found.address)
    vxlan = create_vxlan(settings.vxlan_port, underlay.overlay_mtu())

    def netns_path(sandbox_key: str) -> str:
        return settings.netns_dir + sandbox_key

    pins = pin_folder(Path(settings.bpffs))
    loaded = load(Constants(
        underlay.found.address, underlay.found.ifindex, vxlan, HOST_PATH_MARK,
        settings.port_range.first, settings.port_range.last), pins)
    datapath = EbpfDatapath(loaded, Attachments(
        loaded, pins, Path(settings.cgroup) if settings.cgroup else host.cgroup2_mount(),
        _Filters(), netns_path))

    networks = EtcdNetworks(kv, me)
    endpoints = EtcdEndpoints(kv, me, networks)
    directory = EtcdDirectory(kv)
    hosts = EtcdHosts(kv)
    links = Veths()
    sandboxes = KernelSandboxes(ingress_program_fd=loaded.programs[TO_CONTAINER.name],
                                path_of=netns_path)

    # These two call back into the endpoint service, which needs them to be made.
    def offer_host_path(endpoint_id: EndpointId, offered: bool) -> None:
        endpoint_service.offer_host_path(endpoint_id, offered)

    def unlink(endpoint_id: EndpointId) -> None:
        endpoint_service.unlink(endpoint_id)

    unlinking = Later(unlink, threads=1, name="unlinking")
    finisher = Finisher(sandboxes=sandboxes, datapath=datapath, underlay=underlay.found.address,
                        overlay_mtu=underlay.overlay_mtu,
                        offer_host_path=offer_host_path)
    publisher = Publisher(datapath, me)
    ports = EndpointPorts(settings.port_range.first, settings.port_range.last)
    endpoint_service = EndpointService(
        host=this_host, networks=networks, endpoints=endpoints, links=links, datapath=publisher,
        finisher=finisher, ports=ports, random_bytes=os.urandom, underlay_mtu=underlay.mtu,
        unlink_later=unlinking.submit)
    network_service = NetworkService(networks, directory, publisher, endpoint_service)
    addresses = AddressService(EtcdAddressBook(kv), me, supernets=_supernets(settings),
                               routed=routed_networks, underlay=underlay.found.address)
    recovery = Recovery(Reconciler(
        networks=networks, endpoints=endpoints, links=links, sandboxes=sandboxes,
        pinned=datapath, directory=directory, listener=publisher, service=endpoint_service))
    removals = Repeater("unfinished removals", network_service.finish_removals, REMOVALS_S)
    housekeeping = Repeater("memory", memory.give_back, MEMORY_S)
    carrier = CarrierMonitor(finisher.carrier_up, finisher.carrier_down)
    watcher = UnderlayWatcher(settings.underlay, underlay.changed)

    def status() -> Mapping[str, str]:
        counts = finisher.counts()
        return {
            "version": __version__, "host": f"{this_host.name} {me}",
            "underlay": f"{underlay.found.address} on {underlay.found.name}, MTU {underlay.mtu()}",
            "etcd": _reach(kv, settings), "recovery": recovery.state(),
            "directory": f"{publisher.directory_size()} endpoints",
            "ports": f"{ports.in_use()} endpoint ports in use",
            "sandboxes": f"{counts.finished} finished, {counts.failed_attempts} failed attempts, "
                         f"{counts.given_up} given up"}

    api = ApiServer(create_app(
        NetworkDriver(network_service, endpoint_service, settings.scope), IpamDriver(addresses),
        Control(datapath.counters, status)), settings.socket)
    return Driver([
        Part("state folder", _nothing, lambda: os.close(lock)),
        Part("etcd client", _nothing, kv.close),
        Part("programs", _nothing, loaded.close),
        Part("datapath", lambda: datapath.start(underlay.found.ifindex, vxlan), datapath.stop),
        Part("underlay watcher", watcher.start, watcher.stop),
        Part("sandbox finisher", finisher.start, finisher.stop),
        Part("carrier monitor", carrier.start, carrier.stop),
        Part("unlinking", unlinking.start, lambda: unlinking.stop(drain=True)),
        Part("memory", housekeeping.start, housekeeping.stop),
        Part("directory", _nothing, directory.close),
        Part("recovery", recovery.start, recovery.stop),
        Part("unfinished removals", removals.start, removals.stop),
        Part("host registration", lambda: hosts.register(this_host), hosts.close),
        # Last: a call that arrives finds everything in place.
        Part("API", api.start, api.stop)])


def _reach(kv: EtcdKeyValue, settings: Settings) -> str:
    try:
        with deadline.limit(STATUS_S):
            return f"answers, {kv.count(keys.HOSTS)} hosts registered"
    except StoreUnavailable as error:
        return f"{','.join(settings.etcd)}: {error}"


def _supernets(settings: Settings) -> tuple[Supernet, ...]:
    return (pools.parse_supernet(str(settings.supernet), pools.POOL_PREFIXLEN),
            pools.parse_supernet(pools.SUPERNET6, pools.POOL6_PREFIXLEN))


def _nothing() -> None:
    """For parts that are made ready by being built."""
