"""Lists the programs with name, type and attach type, and the C files they are made of.

Nothing is loaded or attached here.
"""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[3]
# The C files: beside driver/, or where `pip install` has put them (pyproject.toml, data-files).
KERNEL_FOLDER = next((each for each in (
    _CHECKOUT / "kernel", Path(sysconfig.get_path("data"), "share/slim/kernel"))
    if (each / "maps.c").is_file()), _CHECKOUT / "kernel")

BCC_COMES_FROM = ("apt-get install python3-bpfcc, and run slim with Debian's Python: make setup, "
                  "or /usr/bin/python3 -m venv --system-site-packages FOLDER")

# The files are compiled as one text: BCC rewrites map access in the main file only.
FILES = ("maps", "events", "shares", "ipv6", "underlay6", "icmp", "probe", "deliver", "withheld",
         "services", "claims", "connect", "names", "followed", "sockops", "lookup", "wire",
         "tunnel", "overlay", "host", "container", "resolve", "moves")

# enum bpf_prog_type, enum bpf_attach_type (linux/bpf.h); BCC knows these by number only.
SCHED_CLS, SOCK_OPS, SOCK_ADDR, SOCK_OPT, SK_LOOKUP = 3, 13, 18, 25, 30
CGROUP_SOCK_OPS, INET4_CONNECT, INET6_CONNECT = 3, 10, 11
INET4_GETPEERNAME, INET6_GETPEERNAME, INET4_GETSOCKNAME, INET6_GETSOCKNAME = 29, 30, 31, 32
UDP4_SENDMSG, UDP4_RECVMSG, UDP6_RECVMSG = 14, 19, 20
SETSOCKOPT = 22
SK_LOOKUP_ATTACH = 36
NETKIT_PEER = 55


@dataclass(frozen=True)
class Program:
    """One program: its function's name, its type and, if needed, its attach type."""

    name: str
    type: int
    attach_type: int | None = None


CGROUP_PROGRAMS = (
    Program("sockops", SOCK_OPS, CGROUP_SOCK_OPS),  # first: a connection needs its option
    Program("setsockopt", SOCK_OPT, SETSOCKOPT),
    Program("getpeername4", SOCK_ADDR, INET4_GETPEERNAME),
    Program("getpeername6", SOCK_ADDR, INET6_GETPEERNAME),
    Program("getsockname4", SOCK_ADDR, INET4_GETSOCKNAME),
    Program("getsockname6", SOCK_ADDR, INET6_GETSOCKNAME),
    Program("connect4", SOCK_ADDR, INET4_CONNECT),
    Program("connect6", SOCK_ADDR, INET6_CONNECT),
)
# Attached only while there is a vip: they run for every datagram of the host.
SERVICE_PROGRAMS = (
    Program("recvmsg4", SOCK_ADDR, UDP4_RECVMSG),
    Program("recvmsg6", SOCK_ADDR, UDP6_RECVMSG),
    Program("sendmsg4", SOCK_ADDR, UDP4_SENDMSG),
)
LISTENER_LOOKUP = Program("listener_lookup", SK_LOOKUP, SK_LOOKUP_ATTACH)
FROM_CONTAINER = Program("from_container", SCHED_CLS)
FROM_CONTAINER_DIRECT = Program("from_container_direct", SCHED_CLS)
FROM_WIRE = Program("from_wire", SCHED_CLS)
FROM_OVERLAY = Program("from_overlay", SCHED_CLS)
TO_CONTAINER = Program("to_container", SCHED_CLS)
NAME_QUERY = Program("name_query", SCHED_CLS)
MOVE_FLOWS = Program("move_flows", SCHED_CLS)  # attached nowhere: the driver runs it
ALL_PROGRAMS = (*CGROUP_PROGRAMS, *SERVICE_PROGRAMS, LISTENER_LOOKUP, FROM_CONTAINER,
                FROM_CONTAINER_DIRECT, FROM_WIRE, FROM_OVERLAY, TO_CONTAINER, NAME_QUERY,
                MOVE_FLOWS)


def unit_text(kernel_folder: Path = KERNEL_FOLDER) -> str:
    """Return the C text of all programs, with #line directives so that errors name their file."""
    parts = []
    for name in FILES:
        path = kernel_folder / f"{name}.c"
        parts.append(f'#line 1 "{path}"\n{path.read_text()}')
    return "\n".join(parts)
