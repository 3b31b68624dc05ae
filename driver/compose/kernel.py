"""Owns building what faces the kernel: programs, maps and guard, for the underlay as it is found.

Together with build.py the only place that knows the concrete adapters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from driver import host
from driver.compose.parts import Part, nothing
from driver.datapath.attachments import Attachments
from driver.datapath.datapath import EbpfDatapath
from driver.datapath.handover import Handover
from driver.datapath.layout import inherit, pin_folder
from driver.datapath.load import Constants, Loaded, load
from driver.link import filters
from driver.link.guard import Guarded, KernelGuard
from driver.link.live_sockets import live_sockets
from driver.link.names import HOST_PATH_MARK
from driver.link.underlay import Underlay
from driver.link.vxlan import overlay_mtu
from driver.services.background import Recovery, Repeater
from driver.services.guarding import Guarding
from driver.settings import Settings

log = logging.getLogger("slim")
GUARD_S = 30.0  # between looks whether the guard is still there
HANDOVER_S = 0.2  # between looks whether an older layout can be taken over from


class _Filters:
    """driver.link.filters as the datapath wants it."""

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
    """The underlay as it was found at start, with the MTU it has now."""

    def __init__(self, found: Underlay, moved: Callable[[], None]) -> None:
        """Moved: called when it has become another one."""
        self.found = found
        self.on_mtu: Callable[[], None] = nothing
        self._moved = moved
        self._mtu = found.mtu
        self._away = False

    def mtu(self) -> int:
        """MTU in bytes, of the underlay and so of containers' interfaces."""
        return self._mtu

    def overlay_mtu(self) -> int:
        """Bytes that the overlay path carries."""
        return overlay_mtu(self._mtu)

    def changed(self, found: Underlay | None) -> None:
        """Take news of the underlay.  The programs are compiled for its address and device."""
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
                self._mtu = found.mtu
                self.on_mtu()


@dataclass(frozen=True)
class Kernel:
    """What is made of, and for, the programs."""

    loaded: Loaded
    datapath: EbpfDatapath
    handover: Handover
    guarding: Guarding


def build_kernel(settings: Settings, underlay: Underlay, vxlan: int,
            netns_path: Callable[[str], str]) -> Kernel:
    """Compile and load the programs (1 to 5 s); attach nothing.  vxlan: its ifindex.

    Errors: LinkError, DatapathError.
    """
    bpffs = Path(settings.bpffs)
    pins = pin_folder(bpffs)
    handover = Handover(inherit(bpffs), lambda key: live_sockets(netns_path(key)),
                        underlay.address)
    loaded = load(Constants(
        underlay.address, underlay.ifindex, vxlan, HOST_PATH_MARK,
        settings.port_range.first, settings.port_range.last), pins,
        headers=Path(settings.state) / "headers")
    datapath = EbpfDatapath(loaded, Attachments(
        loaded, pins, Path(settings.cgroup) if settings.cgroup else host.cgroup2_mount(),
        _Filters(), netns_path), handover)
    guarding = Guarding(
        KernelGuard(Guarded(underlay.ifindex, settings.vxlan_port, settings.port_range.first,
                            settings.port_range.last)),
        {endpoint.underlay for endpoint in datapath.list_remotes()} - {underlay.address})
    # The guard hears from the maps who the peers are.
    datapath.on_hosts = guarding.hosts_changed
    return Kernel(loaded, datapath, handover, guarding)


def handover_parts(kernel: Kernel, recovery: Recovery) -> list[Part]:
    """What takes over from a driver with another layout of maps; nothing if there is none."""
    if not kernel.handover.pending:
        return []

    def look() -> None:
        if recovery.done.is_set():
            kernel.datapath.take_over()

    looking = Repeater("handover", look, HANDOVER_S)
    return [Part("handover", looking.start, looking.stop)]


def guard_parts(guarding: Guarding) -> list[Part]:
    """What puts the guard in place and looks after it; it stays when the driver stops."""
    looking = Repeater("guard", guarding.check, GUARD_S)
    return [Part("guard", guarding.start, nothing),
            Part("looking after the guard", looking.start, looking.stop)]


