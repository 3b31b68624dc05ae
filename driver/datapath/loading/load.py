"""Loads a Compiled with this host's constants into the kernel: programs and maps.

Maps are pinned, so loading again finds the previous process's maps.  Nothing is attached here.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from driver.client_ports import ClientPorts, Ports
from driver.datapath.code.compiled import Compiled, relocate
from driver.datapath.code.programs import ALL_PROGRAMS
from driver.datapath.loading.host_numbers import HostNumbers
from driver.datapath.loading.objects import load_btf, load_program, open_map
from driver.datapath.loading.table import Table
from driver.errors import DatapathError
from driver.model import HostAddress

ASSIGNS_GROUPS: Final = (6, 6)  # Linux: bpf_sk_assign() takes sockets with SO_REUSEPORT


@dataclass(frozen=True)
class Constants:
    """The values that this host puts into the programs."""

    underlay: HostAddress
    underlay_ifindex: int
    vxlan_ifindex: int
    mark: int  # 32 bit, for sockets that are bound to a port only
    port_first: int  # endpoint ports, both inclusive
    port_last: int
    host_netns: int  # cookie of the host's own network namespace
    clients: ClientPorts  # source ports of connections on the host path
    # UDP; 0: every packet of the overlay path takes the VXLAN device.  Over IPv6 all do, anyway.
    vxlan_port: int
    vxlan_sources: Ports  # the VXLAN device's source ports, both inclusive
    assigns_groups: bool = field(default_factory=lambda: kernel_release() >= ASSIGNS_GROUPS)

    @property
    def over_ipv6(self) -> bool:
        """Whether the underlay has IPv6."""
        return isinstance(self.underlay, IPv6Address)

    def values(self, hosts: HostNumbers) -> dict[str, int]:
        """Return the values by their names in the C text.  Error: DatapathError."""
        high, low = struct.unpack("=QQ", self.underlay.packed if self.over_ipv6 else bytes(16))
        return {
            "UNDERLAY_BE": hosts.number(self.underlay),
            "IPV6_UNDERLAY": int(self.over_ipv6),
            "UNDERLAY6_HIGH": high,
            "UNDERLAY6_LOW": low,
            "UNDERLAY_IFINDEX": self.underlay_ifindex,
            "VXLAN_IFINDEX": self.vxlan_ifindex,
            "MARK": self.mark,
            "HOST_NETNS": self.host_netns,
            "PORT_FIRST": self.port_first,
            "PORT_LAST": self.port_last,
            "MPTCP": int(Path("/proc/sys/net/mptcp").exists()),  # does this kernel have it?
            "CLIENT_FIRST": self.clients.first,
            "CLIENT_COUNT": self.clients.count,
            "CLIENT_GAP_FIRST": self.clients.gap_first,
            "CLIENT_GAP": self.clients.gap,
            "VXLAN_PORT_BE": 0 if self.over_ipv6 else u16_be(self.vxlan_port),
            "VXLAN_SOURCE_FIRST": self.vxlan_sources[0],
            "VXLAN_SOURCE_COUNT": self.vxlan_sources[1] - self.vxlan_sources[0],
            "ASSIGNS_GROUPS": int(self.assigns_groups),
        }


def kernel_release() -> tuple[int, int]:
    """Return the running kernel's two first numbers: (6, 1)."""
    major, minor = re.findall(r"[0-9]+", os.uname().release)[:2]
    return int(major), int(minor)


def u32_be(address: IPv4Address) -> int:
    """Return the integer whose bytes in memory are the address in network order."""
    return int.from_bytes(address.packed, sys.byteorder)


def u16_be(port: int) -> int:
    """Return the integer whose bytes in memory are the port in network order."""
    return socket.htons(port)


class Loaded:
    """Programs and maps that are loaded into the kernel."""

    def __init__(self, tables: dict[str, Table], programs: dict[str, int],
                 hosts: HostNumbers, *, over_ipv6: bool) -> None:
        """over_ipv6: the underlay has IPv6."""
        self._tables = tables
        self.programs = programs  # name -> descriptor
        self.hosts = hosts
        self.over_ipv6 = over_ipv6

    def table(self, name: str) -> Table:
        """Return a map as a mapping of its C structs."""
        return self._tables[name]

    def close(self) -> None:
        """Close all descriptors; pinned maps and attached programs stay."""
        for fd in (*self.programs.values(), *(table.map_fd for table in self._tables.values())):
            os.close(fd)
        self.programs, self._tables = {}, {}


def load(compiled: Compiled, constants: Constants, pins: Path) -> Loaded:
    """Load everything; maps are opened from folder `pins`, or created there.

    Takes half a second.  Error: DatapathError, with the verifier's log on standard error.
    """
    with ExitStack() as undo:
        tables = _open_maps(compiled, pins, undo)
        programs = {}
        hosts = HostNumbers(tables)
        code = relocate(compiled, [table.map_fd for table in tables.values()],
                        constants.values(hosts))
        for program in ALL_PROGRAMS:
            programs[program.name] = load_program(program, code[program.name])
            undo.callback(os.close, programs[program.name])
        undo.pop_all()
    return Loaded(tables, programs, hosts, over_ipv6=constants.over_ipv6)


def _open_maps(compiled: Compiled, pins: Path, undo: ExitStack) -> dict[str, Table]:
    try:
        pins.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatapathError(f"cannot make {pins}: {error.strerror}; is a bpf file system mounted "
                            f"there? (mount -t bpf bpf /sys/fs/bpf)") from error
    tables = {}
    btf_fd = load_btf(compiled.btf)
    try:
        for spec in compiled.maps:
            fd = open_map(spec, btf_fd, pins / spec.name)
            undo.callback(os.close, fd)
            tables[spec.name] = Table(fd, spec)
    finally:
        os.close(btf_fd)
    return tables


def try_programs(compiled: Compiled, pins: Path) -> Iterator[tuple[str, str | None]]:
    """Load each program into the kernel without attaching it; yield (name, error or None).

    pins: a temporary folder; nothing is left behind.  Error: DatapathError.
    """
    constants = Constants(IPv4Address("192.0.2.1"), 1, 1, 1, 61000, 65535, 1,
                          ClientPorts(32768, 28232), 14789, (32768, 60999))
    try:
        with ExitStack() as undo:
            tables = _open_maps(compiled, pins, undo)
            code = relocate(compiled, [table.map_fd for table in tables.values()],
                            constants.values(HostNumbers(tables)))
            for program in ALL_PROGRAMS:
                try:
                    os.close(load_program(program, code[program.name]))
                except DatapathError as error:
                    yield program.name, str(error)
                else:
                    yield program.name, None
    finally:
        if pins.exists():
            for pin in pins.iterdir():
                pin.unlink()
            pins.rmdir()
