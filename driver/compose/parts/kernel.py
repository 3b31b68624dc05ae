"""Builds what faces the kernel, for the underlay that was found: programs, maps and guard.

The underlay's MTU may change while the driver runs; a new address or device needs new programs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from driver.client_ports import Ports, client_ports, unreserved
from driver.compose.parts.part import Part, nothing
from driver.datapath.attachments import Attachments
from driver.datapath.build.cache import compiled_unit
from driver.datapath.datapath import EbpfDatapath
from driver.datapath.handover import Handover
from driver.datapath.loading.layout import inherit, pin_folder
from driver.datapath.loading.load import Constants, Loaded, load
from driver.errors import LinkError
from driver.link.netlink import filters, netns
from driver.link.netlink.names import HOST_PATH_MARK
from driver.link.netlink.watch import NamespaceWatch
from driver.link.sandbox import nonlocal_bind
from driver.link.sandbox.live_sockets import live_sockets
from driver.link.sandbox.lost_sockets import lost_sockets
from driver.link.underlay.device import Underlay
from driver.link.underlay.guard import Guarded, KernelGuard
from driver.link.underlay.port_settings import ReservedPorts, ephemeral_ports
from driver.link.underlay.vxlan import overlay_mtu
from driver.model import HostAddress
from driver.services.hosts.guarding import Guarding
from driver.services.upkeep.recovery import Recovery
from driver.settings import TC, Settings
from driver.state import host
from driver.work.later import Later
from driver.work.repeater import Repeater

log = logging.getLogger("slim")
GUARD_S = 30.0  # between checks that the guard is still there
GUARD_CHANGED_S = 0.05  # after the first of several changes of the host's rules
HANDOVER_S = 0.2  # between checks whether an older layout can be taken over


class _Filters:
    """Adapts driver.link.netlink.filters to the datapath."""

    def attach(self, ifindex: int, program_fd: int, name: str) -> None:
        """See datapath.attachments.Filters."""
        filters.attach_ingress(ifindex, program_fd, name)

    def detach(self, ifindex: int) -> None:
        """See datapath.attachments.Filters."""
        filters.detach_ingress(ifindex)

    def attached(self, ifindex: int) -> str | None:
        """See datapath.attachments.Filters."""
        return filters.attached_ingress(ifindex)


class UnderlayState:
    """The underlay as found at the start, with its current MTU."""

    def __init__(self, found: Underlay, moved: Callable[[], None]) -> None:
        """Moved: called when the underlay has changed to another one."""
        self.found = found
        # U, if sockets in containers can be bound to it; None: there is no host path.
        self.host_path: HostAddress | None = found.address4 or (
            found.address if nonlocal_bind.works() else None)
        self.on_mtu: Callable[[], None] = nothing
        self._moved = moved
        self._mtu = found.mtu
        self._path_mtu = found.mtu
        self._away = False

    def mtu(self) -> int:
        """Return the MTU in bytes, of the underlay and thus of containers' interfaces."""
        return self._mtu

    def overlay_mtu(self) -> int:
        """Return the MTU of the overlay path in bytes."""
        return overlay_mtu(min(self._mtu, self._path_mtu), over_ipv6=self.found.address4 is None)

    def lower(self, path_mtu: int) -> None:
        """Take what a router on the way to another host carries.  Errors: those of on_mtu."""
        before, self._path_mtu = self._path_mtu, path_mtu
        try:
            self.on_mtu()
        except BaseException:
            self._path_mtu = before
            raise

    def narrow_way(self) -> str:
        """Say for the status what a router carries; "": as much as the device."""
        return f"{self._path_mtu} on the way to a host" if self._path_mtu < self._mtu else ""

    def changed(self, found: Underlay | None) -> None:
        """Handle a change of the underlay.  The programs are loaded for its address and device."""
        if found is None:
            self._away = True
            log.warning("underlay %s (%s) has gone", self.found.address, self.found.name)
        elif (found.address, found.ifindex) != (self.found.address, self.found.ifindex):
            log.warning("underlay is now %s on %s, was %s on %s: starting anew with it",
                        found.address, found.name, self.found.address, self.found.name)
            self._moved()
        else:
            if self._away:
                self._away = False
                log.info("underlay %s (%s) is back", found.address, found.name)
            if found.mtu != self._mtu:
                log.warning("underlay MTU is now %d, was %d", found.mtu, self._mtu)
                before, self._mtu = self._mtu, found.mtu
                try:
                    self.on_mtu()
                except BaseException:
                    self._mtu = before  # so that the next call reports it again
                    raise


class HostPorts:
    """Chooses the host's TCP ports: endpoint ports, and those for connections to others."""

    def __init__(self, settings: Settings) -> None:
        """Choose the ports.  Error: SettingsError, if too few are left."""
        self.endpoints: Ports = settings.port_range.first, settings.port_range.last
        self._reserved = ReservedPorts(Path(settings.state))
        self.clients = client_ports(self.endpoints, ephemeral_ports(), self._reserved.others())

    def reserve(self) -> None:
        """Reserve endpoint ports against the host's own clients; `slim cleanup` undoes that.

        If the host does not allow it, this logs that, as a warning if it matters.
        """
        try:
            self._reserved.reserve(self.endpoints)
        except LinkError as error:
            problem = self.problem()
            log.log(logging.WARNING if problem else logging.INFO, "%s",
                    f"{error}; {problem}" if problem else error)

    def problem(self) -> str:
        """Return what is wrong by now, and what to do; "" if nothing is."""
        return unreserved(self.endpoints, ephemeral_ports(), self._reserved.all())


@dataclass(frozen=True)
class Kernel:
    """The loaded programs, and what is built on them."""

    loaded: Loaded
    datapath: EbpfDatapath
    handover: Handover
    guarding: Guarding


def build_kernel(settings: Settings, underlay: Underlay, vxlan: int, ports: HostPorts,
                 netns_path: Callable[[str], str]) -> Kernel:
    """Load the programs, compiling if needed (1 to 5 s); attach nothing.  vxlan: its ifindex.

    Errors: LinkError, DatapathError.
    """
    bpffs = Path(settings.bpffs)
    pins = pin_folder(bpffs)
    handover = Handover(inherit(bpffs), lambda key: live_sockets(netns_path(key)),
                        underlay.address)
    loaded = load(compiled_unit(headers=Path(settings.state) / "headers"), Constants(
        underlay.address, underlay.ifindex, vxlan, HOST_PATH_MARK, *ports.endpoints,
        netns.current_cookie(), ports.clients,
        settings.vxlan_port if settings.overlay == TC else 0, ephemeral_ports()), pins)
    datapath = EbpfDatapath(loaded, Attachments(
        loaded, pins, Path(settings.cgroup) if settings.cgroup else host.cgroup2_mount(),
        _Filters(), netns_path), handover, lambda key, cookie, names: (
            lost_sockets(netns_path(key), cookie, underlay.address.packed, names)))
    guarding = Guarding(
        KernelGuard(Guarded(underlay.address, underlay.ifindex, settings.vxlan_port,
                            ports.endpoints, ports.clients.widest())),
        {endpoint.underlay for endpoint in datapath.list_remotes()
         if endpoint.underlay.version == underlay.address.version} - {underlay.address})
    # The guard learns from the maps which hosts are peers.
    datapath.on_hosts = guarding.hosts_changed
    return Kernel(loaded, datapath, handover, guarding)


def handover_parts(kernel: Kernel, recovery: Recovery) -> list[Part]:
    """Return what takes over from a driver with another map layout; nothing if there is none."""
    if not kernel.handover.pending:
        return []

    def look() -> None:
        if recovery.done.is_set():
            kernel.datapath.take_over()

    looking = Repeater("handover", look, HANDOVER_S)
    return [Part("handover", looking.start, looking.stop)]


def guard_parts(guarding: Guarding, watch: NamespaceWatch) -> list[Part]:
    """Return what installs the guard and maintains it; the guard stays when the driver stops."""
    looking = Repeater("guard", guarding.check, GUARD_S)  # in case a change was missed
    checking: Later[None] = Later(lambda _: guarding.check(), threads=1, name="guard")
    return [Part("guard", guarding.start, nothing),
            Part("looking after the guard", looking.start, looking.stop),
            Part("guard's checks", checking.start, checking.stop),
            # Docker changes its own rules many times per second where containers come and go.
            Part("changes of the packet filter", lambda: watch.watch_tables_here(
                lambda: checking.submit(None, GUARD_CHANGED_S)), nothing)]
