"""Owns compiling and loading: C text in, program descriptors and map tables out.

Maps are pinned, so loading again finds the maps of the process before.  It must not attach
anything, and knows no etcd and no Docker.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import bcc

from driver.datapath.headers import header_tree
from driver.datapath.programs import ALL_PROGRAMS, KERNEL_FOLDER, Program, unit_text
from driver.errors import DatapathError

EPHEMERAL_FIRST = 32768  # Linux's default ip_local_port_range: source ports that clients get
EPHEMERAL_LAST = 60999


@dataclass(frozen=True)
class Constants:
    """What the programs are compiled for."""

    underlay: IPv4Address
    underlay_ifindex: int
    vxlan_ifindex: int
    mark: int  # 32 bit, of sockets that are bound to a port only
    port_first: int  # endpoint ports, both inclusive
    port_last: int

    def flags(self) -> list[str]:
        """Return them as compiler arguments."""
        last = min(EPHEMERAL_LAST, self.port_first - 1)
        values = {
            "UNDERLAY_BE": u32_be(self.underlay),
            "UNDERLAY_IFINDEX": self.underlay_ifindex,
            "VXLAN_IFINDEX": self.vxlan_ifindex,
            "MARK": self.mark,
            "PORT_FIRST": self.port_first,
            "PORT_LAST": self.port_last,
            "MPTCP": int(Path("/proc/sys/net/mptcp").exists()),  # does this kernel have it?
            "CLIENT_FIRST": EPHEMERAL_FIRST,
            "CLIENT_COUNT": last - EPHEMERAL_FIRST + 1,
        }
        return [f"-DSLIM_{name}={value}" for name, value in values.items()]


def u32_be(address: IPv4Address) -> int:
    """Return the integer that lies in memory as the address in network order."""
    return int.from_bytes(address.packed, sys.byteorder)


def u16_be(port: int) -> int:
    """Return the integer that lies in memory as the port in network order."""
    return socket.htons(port)


class Loaded:
    """Programs and maps of one compilation."""

    def __init__(self, module: Any, programs: dict[str, int]) -> None:
        self._module = module
        self.programs = programs  # name -> descriptor

    def table(self, name: str) -> Any:
        """Return BCC's table of a map: a mapping of its C structs as ctypes.

        Indexing keeps one table for each map; get_table() would make new classes each time.
        """
        return self._module[name.encode()]

    def close(self) -> None:
        """Close all descriptors; what is pinned or attached stays."""
        self._module.cleanup()


def load(constants: Constants, pins: Path, kernel_folder: Path = KERNEL_FOLDER, *,
         headers: Path | None = None) -> Loaded:
    """Compile and load everything; maps are created in, or taken from, folder `pins`.

    headers: a folder for the time of compiling, see header_tree.  Takes about 1 s.
    Errors: DatapathError, with the compiler's or verifier's complaint on standard error.
    """
    module = _compile(constants, pins, kernel_folder, headers)
    programs: dict[str, int] = {}
    try:
        for program in ALL_PROGRAMS:
            programs[program.name] = _load_program(module, program)
    except DatapathError:
        module.cleanup()
        raise
    return Loaded(module, programs)


def _compile(constants: Constants, pins: Path, kernel_folder: Path,
             headers: Path | None) -> Any:
    try:
        pins.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatapathError(f"cannot make {pins}: {error.strerror}; is a bpf file system mounted "
                            f"there? (mount -t bpf bpf /sys/fs/bpf)") from error
    with header_tree(kernel_folder, headers) as tree:
        before = os.environ.get("BCC_KERNEL_SOURCE")
        os.environ["BCC_KERNEL_SOURCE"] = str(tree)
        try:
            # Unrolled loops would be a third more to compile, and none is on a packet's way.
            flags = [f"-I{kernel_folder / 'include'}", "-Wno-unused-function", "-fno-unroll-loops",
                     f'-DSLIM_PINS="{pins}"', *constants.flags()]
            return bcc.BPF(text=unit_text(kernel_folder).encode(),
                           cflags=flags)
        except Exception as error:  # BCC raises bare Exceptions
            raise DatapathError(f"programs do not compile: {error}") from error
        finally:
            if before is None:
                del os.environ["BCC_KERNEL_SOURCE"]
            else:
                os.environ["BCC_KERNEL_SOURCE"] = before


def _load_program(module: Any, program: Program) -> int:
    attach_type = -1 if program.attach_type is None else program.attach_type
    try:
        return int(module.load_func(program.name.encode(), program.type, None, attach_type).fd)
    except Exception as error:
        raise DatapathError(f"the kernel refuses program {program.name}: {error}") from error


def probe(pins: Path, kernel_folder: Path = KERNEL_FOLDER) -> Iterator[tuple[str, str | None]]:
    """Compile and load each program for real, attach none; yield (name, error or None)."""
    constants = Constants(IPv4Address("192.0.2.1"), 1, 1, 1, 61000, 65535)
    try:
        module = _compile(constants, pins, kernel_folder, None)
    except DatapathError as error:
        yield "compile", str(error)
        return
    yield "compile", None
    try:
        for program in ALL_PROGRAMS:
            try:
                _load_program(module, program)
            except DatapathError as error:
                yield program.name, str(error)
            else:
                yield program.name, None
    finally:
        module.cleanup()
        for pin in pins.iterdir():
            pin.unlink()
        pins.rmdir()


