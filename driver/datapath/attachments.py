"""Attaches the programs: cgroup and namespace links (pinned), and tc filters.

A restart finds the pins and replaces the links' programs in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from driver.datapath.code.programs import (
    CGROUP_PROGRAMS,
    FROM_CONTAINER,
    FROM_CONTAINER_DIRECT,
    FROM_OVERLAY,
    FROM_WIRE,
    LISTENER_LOOKUP,
    NETKIT_PEER,
    SERVICE_PROGRAMS,
    Program,
)
from driver.datapath.loading.bpf import Link, attach_device, detach, netns_of
from driver.datapath.loading.load import Loaded
from driver.errors import DatapathError


class Filters(Protocol):
    """tc filters, which belong to the link layer."""

    def attach(self, ifindex: int, program_fd: int, name: str) -> None:
        """Make the program the interface's ingress program; replaces an older one."""

    def detach(self, ifindex: int) -> None: ...

    def attached(self, ifindex: int) -> str | None:
        """Return the name of our filter on the interface, None if there is none."""


def attach_to_netkit(program_fd: int, ifindex: int) -> bool:
    """Let the program see all packets from the other end of a netkit pair; False: it is a veth."""
    return attach_device(program_fd, ifindex, NETKIT_PEER)


class Attachments:
    """All attachments of one host's programs."""

    def __init__(self, loaded: Loaded, pins: Path, cgroup: Path, filters: Filters,
                 netns_path: Callable[[str], str], *,
                 attach_direct: Callable[[int, int], bool] = attach_to_netkit) -> None:
        """`pins`: folder for links; `netns_path`: SandboxKey -> path as this process sees it.

        attach_direct: as attach_to_netkit, in the namespace of the host's devices.
        """
        self._loaded = loaded
        self._pins = pins
        self._cgroup = cgroup
        self._filters = filters
        self._netns_path = netns_path
        self._attach_direct = attach_direct

    def attach_host(self, underlay_ifindex: int, vxlan_ifindex: int) -> None:
        """Attach, or replace, the cgroup's programs and those of the host's devices."""
        self._attach_cgroup(CGROUP_PROGRAMS)
        self._attach_filter(vxlan_ifindex, FROM_OVERLAY.name)
        self._attach_filter(underlay_ifindex, FROM_WIRE.name)

    def detach_host(self, underlay_ifindex: int, vxlan_ifindex: int | None) -> None:
        """Undo attach_host."""
        self._filters.detach(underlay_ifindex)
        if vxlan_ifindex is not None:
            self._filters.detach(vxlan_ifindex)
        self.detach_vips()
        for program in reversed(CGROUP_PROGRAMS):
            detach(self._pins / program.name)

    def attach_vips(self) -> None:
        """Attach, or replace, the programs for datagrams to vips."""
        self._attach_cgroup(SERVICE_PROGRAMS)

    def detach_vips(self) -> None:
        """Undo attach_vips."""
        for program in reversed(SERVICE_PROGRAMS):
            detach(self._pins / program.name)

    def _attach_cgroup(self, programs: Iterable[Program]) -> None:
        self._pins.mkdir(parents=True, exist_ok=True)
        cgroup_fd = os.open(self._cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for program in programs:
                assert program.attach_type is not None
                Link.attach(self._loaded.programs[program.name], cgroup_fd, program.attach_type,
                            self._pins / program.name).close()
        except DatapathError as error:
            raise DatapathError(f"cgroup {self._cgroup}: {error}; does another program hold it "
                                f"exclusively? (bpftool cgroup tree)") from error
        finally:
            os.close(cgroup_fd)

    def attach_veth(self, ifindex: int) -> None:
        """Attach the program that checks a container's packets, and the direct one on netkit."""
        self._attach_filter(ifindex, FROM_CONTAINER.name)
        self._attach_direct(self._loaded.programs[FROM_CONTAINER_DIRECT.name], ifindex)

    def has_filter(self, ifindex: int) -> bool:
        """Tell whether a veth has this driver's program, or an older driver's."""
        return self._filters.attached(ifindex) is not None

    def attach_sandbox(self, cookie: int, sandbox_key: str) -> None:
        """Attach the listener look-up to a container's namespace."""
        path = self._netns_path(sandbox_key)
        try:
            netns_fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DatapathError(f"cannot open network namespace {path}: {error.strerror}"
                                ) from error
        try:
            assert LISTENER_LOOKUP.attach_type is not None
            Link.attach(self._loaded.programs[LISTENER_LOOKUP.name], netns_fd,
                        LISTENER_LOOKUP.attach_type, self._sandbox_pin(cookie)).close()
        finally:
            os.close(netns_fd)

    def detach_sandbox(self, cookie: int) -> None:
        """Undo attach_sandbox; the namespace may be gone."""
        detach(self._sandbox_pin(cookie))

    def sandboxes(self) -> set[int]:
        """Return the cookies of the namespaces that have a pinned link."""
        found = set()
        for pin in self._pins.glob("netns-*"):
            with suppress(ValueError):
                found.add(int(pin.name.removeprefix("netns-")))
        return found

    def is_gone(self, cookie: int) -> bool:
        """Tell whether the kernel reports the namespace as gone.  False if there is no link."""
        pin = self._sandbox_pin(cookie)
        return pin.exists() and netns_of(pin) == 0

    def _sandbox_pin(self, cookie: int) -> Path:
        return self._pins / f"netns-{cookie}"

    def _attach_filter(self, ifindex: int, name: str) -> None:
        self._filters.attach(ifindex, self._loaded.programs[name], f"slim_{name}")
