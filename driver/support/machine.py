"""Describes this machine: versions, network, and slim's kernel maps.  Everything is read only."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from driver import __version__
from driver.settings import Settings

LIBRARIES: Final = ("flask", "waitress", "docker", "pyroute2", "etcd3", "grpcio", "protobuf",
                    "dnspython", "cryptography", "prometheus_client")
SYSCTLS: Final = (
    "net/ipv4/ip_forward", "net/ipv4/ip_local_port_range", "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/all/arp_ignore", "net/ipv4/tcp_tw_reuse",
    "net/ipv4/tcp_mtu_probing", "net/ipv4/tcp_congestion_control", "net/ipv4/tcp_syncookies",
    "net/ipv4/fib_multipath_hash_policy", "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/all/forwarding", "net/core/bpf_jit_enable", "net/core/somaxconn",
    "net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max",
    "kernel/unprivileged_bpf_disabled", "kernel/bpf_stats_enabled", "user/max_net_namespaces")
COUNTED: Final = {1: "hash", 9: "lru_hash"}  # enum bpf_map_type, of which entries can be counted


def about(settings: Settings) -> str:
    """Return versions and the machine's size, as JSON."""
    from driver.datapath.loading.layout import pin_folder  # noqa: PLC0415 - loads libbpf

    system = os.uname()
    return _json({
        "slim": __version__, "python": sys.version, "kernel": " ".join(system[2:4]),
        "machine": system.machine, "system": _distribution(), "host": system.nodename,
        "processors": os.cpu_count(), "memory_kB": _memory_kb(),
        "uptime_s": float(_read("/proc/uptime").split()[0]), "libc": " ".join(platform.libc_ver()),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "layout": str(pin_folder(Path(settings.bpffs))),
        "sysctl": {name.replace("/", "."): _read(f"/proc/sys/{name}") for name in SYSCTLS}})


def _distribution() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return ""


def _memory_kb() -> int:
    return int(_read("/proc/meminfo").split()[1])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def network() -> str:
    """Return the host's interfaces, and what /proc/net says of routes and errors."""
    links = [f"{link.name}: ifindex {_of(link, 'ifindex')}, mtu {_of(link, 'mtu')}, "
             f"{_of(link, 'operstate')}, alias {_of(link, 'ifalias') or '-'}, "
             f"master {_master(link)}, {_statistics(link)}"
             for link in sorted(Path("/sys/class/net").iterdir())]
    parts = ["\n".join(links)]
    for name in ("route", "ipv6_route", "if_inet6", "fib_triestat", "softnet_stat", "snmp",
                 "netstat"):
        parts.append(f"== /proc/net/{name}\n{_read(f'/proc/net/{name}')}")
    return "\n\n".join(parts) + "\n"


def _of(link: Path, name: str) -> str:
    return _read(link / name)


def _master(link: Path) -> str:
    master = link / "master"
    return os.path.basename(os.readlink(master)) if master.is_symlink() else "-"


def _statistics(link: Path) -> str:
    return ", ".join(f"{name} {_of(link, f'statistics/{name}')}" for name in (
        "rx_packets", "tx_packets", "rx_dropped", "tx_dropped", "rx_errors", "tx_errors"))


def maps(settings: Settings) -> str:
    """Return each pinned map's type, sizes, memory and, of tables, how many entries it has."""
    from driver.datapath.loading.layout import pin_folder  # noqa: PLC0415

    rows = ["map type key value room entries bytes"]
    for pin in sorted(pin_folder(Path(settings.bpffs)).rglob("*")):
        if pin.is_file():
            rows += _map(pin)
    return "\n".join(rows) + "\n"


def _map(pin: Path) -> Iterator[str]:
    from driver.datapath.loading.libbpf import lib  # noqa: PLC0415

    fd = lib.bpf_obj_get(str(pin).encode())
    if fd < 0:
        yield f"{pin.name} cannot be opened: {os.strerror(-fd)}"
        return
    try:
        said = dict(line.split(":", 1) for line in _read(f"/proc/self/fdinfo/{fd}").splitlines()
                    if ":" in line)
        if "map_type" not in said:
            return  # a program or a link
        kind, key, value, room, memory = (int(said.get(name, 0)) for name in (
            "map_type", "key_size", "value_size", "max_entries", "memlock"))
        entries = str(_count(pin.name, fd, key, value)) if kind in COUNTED else "-"
        yield f"{pin.name} {COUNTED.get(kind, kind)} {key} {value} {room} {entries} {memory}"
    finally:
        os.close(fd)


def _count(name: str, fd: int, key: int, value: int) -> int:
    from driver.datapath.loading import bpf  # noqa: PLC0415

    class Table:
        map_fd = fd
        Key = ctypes.c_char * key
        Leaf = ctypes.c_char * value

    table: Any = Table()
    table.name = name
    return sum(count for _, _, count in bpf.chunks(table))


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
