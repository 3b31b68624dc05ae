"""Builds all concrete parts of the driver, and orders their start and stop.

Each kind of part has its own builder beside this file; this module decides nothing that a service
should decide.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from driver import __version__
from driver.api.app import create_app
from driver.api.control import Control
from driver.api.ipam_driver import IpamDriver
from driver.api.network_driver import NetworkDriver
from driver.api.server import ApiServer, Listener
from driver.compose.claims import Claims
from driver.compose.ownership import own_id
from driver.compose.parts.addresses import build_addresses
from driver.compose.parts.endpoints import build_endpoints
from driver.compose.parts.ground import Ground
from driver.compose.parts.hosts import build_hosts, build_registry
from driver.compose.parts.kernel import (
    HostPorts,
    UnderlayState,
    build_kernel,
    guard_parts,
    handover_parts,
)
from driver.compose.parts.metrics import build_metrics
from driver.compose.parts.part import Driver, Part, nothing
from driver.compose.parts.picture import build_picture
from driver.compose.parts.seeing import build_seeing
from driver.compose.parts.store import build_stores
from driver.compose.parts.swarm import build_swarm
from driver.compose.parts.testing import testing_parts
from driver.compose.parts.upkeep import build_upkeep
from driver.compose.parts.watching import host_link_parts, withholding_parts
from driver.compose.refusing import refuse_who_waits
from driver.compose.status import status_of
from driver.datapath.code.programs import FROM_WIRE
from driver.errors import SlimError
from driver.link.netlink import filters
from driver.link.pairs.owner import device_alias
from driver.link.underlay.device import UnderlayWatcher, find_underlay
from driver.link.underlay.vxlan import create_vxlan
from driver.model import Host
from driver.services.upkeep.host_links import HostLinks
from driver.settings import Settings
from driver.work import logs
from driver.work.ledger import Ledger

ADMISSION_S = 2.0  # for the first attempt to register, before anything else is written


def build_everything(settings: Settings, moved: Callable[[], None], claims: Claims) -> Driver:
    """Build all parts.  Finds the underlay and compiles the programs: 1 to 5 s.

    moved: called from another thread when the underlay has another address or device; everything
    must then be built again.
    Errors: SettingsError, LinkError, DatapathError.
    """
    with ExitStack() as held:
        held.callback(claims.close)
        failed = partial(refuse_who_waits, claims.listener, settings.scope)
        try:
            parts = _build(settings, moved, claims.listener)
        except SlimError as error:
            failed(error)
            raise
        return Driver([Part("this host, its state folder and socket", nothing,
                            held.pop_all().close), *parts], failed)


def _build(settings: Settings, moved: Callable[[], None], listener: Listener) -> list[Part]:
    me = own_id(settings)
    host_ports = HostPorts(settings)
    # Nothing is written in the name of a host if that host is another machine.
    ledger = Ledger()
    stores = build_stores(settings, me, ledger, refusal=lambda: registry.refusal(ADMISSION_S))
    underlay = UnderlayState(find_underlay(settings.underlay), moved)
    this_host = Host(me, socket.gethostname(), underlay.found.address, answers_probes=True,
                     version=__version__)
    alias = device_alias(me, settings.bpffs)
    vxlan = create_vxlan(settings.vxlan_port, underlay.overlay_mtu(), alias=alias)

    def netns_path(sandbox_key: str) -> str:
        return settings.netns_dir + sandbox_key

    kernel = build_kernel(settings, underlay.found, vxlan, host_ports, netns_path)
    ground = Ground(settings, this_host, underlay, host_ports, kernel, stores, ledger, netns_path)
    endpoints = build_endpoints(ground)
    addresses = build_addresses(ground, endpoints)
    upkeep = build_upkeep(ground, endpoints, addresses)
    registry = build_registry(ground, endpoints, lambda: hosts.entering)
    hosts = build_hosts(ground, endpoints, addresses, registry=registry,
                        recovery=upkeep.recovery)
    swarm = build_swarm(ground, addresses)
    watcher = UnderlayWatcher(settings.underlay, underlay.changed, underlay.found)

    def change_mtu() -> None:
        create_vxlan(settings.vxlan_port, underlay.overlay_mtu(), alias=alias)
        endpoints.finisher.refresh()

    underlay.on_mtu = change_mtu

    def restore(ifindex: int) -> bool:
        # 0: some removals were missed.
        if ifindex in (0, vxlan) and create_vxlan(
                settings.vxlan_port, underlay.overlay_mtu(), vxlan, alias=alias) != vxlan:
            moved()  # the programs are loaded for the device
        return kernel.datapath.reattach(ifindex)

    metrics = build_metrics(ground, endpoints, hosts)
    seeing = build_seeing(ground, endpoints, hosts)
    picture = build_picture(ground, endpoints, hosts, seeing)
    api = ApiServer(create_app(
        NetworkDriver(endpoints.networks, endpoints.endpoints, addresses.addresses,
                      settings.scope),
        IpamDriver(addresses.addresses),
        Control(kernel.datapath.counters, partial(
            status_of, ground, endpoints, hosts, swarm, upkeep.recovery,
            metrics=metrics),
            lambda: endpoints.names.list_names(hosts.uncertain.settling.name_of),
            metrics=metrics.text, log=logs.recent, sockets=seeing.sockets, why=seeing.why,
            picture=picture.take, follow=seeing.flows.follow, refusals=seeing.flows.refusals),
        tally=metrics.docker_calls),
        settings.socket, listener=listener)
    return [
        stores.client_part(),
        Part("programs", nothing, kernel.loaded.close),
        Part("reserved ports", host_ports.reserve, nothing),
        Part("datapath", lambda: kernel.datapath.start(underlay.found.ifindex, vxlan),
             kernel.datapath.stop),
        Part("underlay of before", lambda: filters.detach_elsewhere(
            f"slim_{FROM_WIRE.name}", underlay.found.ifindex), nothing),
        Part("namespaces", endpoints.watch.start, endpoints.watch.stop),
        *guard_parts(kernel.guarding, endpoints.watch),
        *host_link_parts(HostLinks(restore, ledger), endpoints.watch),
        *withholding_parts(endpoints.withholding, settings.docker_socket),
        Part("underlay watcher", watcher.start, watcher.stop),
        Part("what is outstanding", ledger.start, ledger.stop),
        *endpoints.sandbox_parts(),
        upkeep.memory,
        *stores.feed_parts(),
        # Before anything is brought into line with etcd: others may have removed records.
        hosts.registration,
        upkeep.recovery_part(),
        *handover_parts(kernel, upkeep.recovery),
        *upkeep.parts,
        *swarm.parts,
        *hosts.parts,
        *testing_parts(ground, hosts.peers.troubles, lambda: (
            registry.joined() if upkeep.recovery.done.is_set() else None)),
        *endpoints.names.parts(),
        *picture.parts,
        metrics.part(),
        seeing.part,
        # Last: calls must find everything in place.
        Part("API", api.start, api.stop)]
