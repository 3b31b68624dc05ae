"""Reads what /proc says of this host's mounts, ports and kernel, for the checks.

It only parses text: no netlink, no BPF, no etcd, no judgement of what it finds.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

PROC = Path("/proc")
_NAME_BYTES = 15  # of a process, in /proc/PID/comm
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp


@dataclass(frozen=True)
class Mount:
    """One mounted file system."""

    path: str
    kind: str  # ext4, cgroup2, bpf, ...


@dataclass(frozen=True)
class Bound:
    """A socket that owns a port of the host."""

    address: IPv4Address | IPv6Address
    port: int  # host order

    @property
    def loopback_only(self) -> bool:
        """Tell whether nobody outside the host can reach it."""
        mapped = self.address.ipv4_mapped if isinstance(self.address, IPv6Address) else None
        return (mapped or self.address).is_loopback


def kernel_version(release: str) -> tuple[int, int]:
    """Return major and minor of `uname -r`: (6, 1) for "6.1.0-18-amd64"; (0, 0) if unreadable."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def parse_mounts(mountinfo: str) -> list[Mount]:
    """Parse /proc/self/mountinfo; a later mount on the same path hides an earlier one."""
    mounts: dict[str, Mount] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        # Spaces in a path are written as octal escapes.
        path = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), before.split(" ")[4])
        mounts[path] = Mount(path, after.split(" ")[0])
    return list(mounts.values())


def mounts() -> list[Mount]:
    """Return what this process sees mounted."""
    return parse_mounts((PROC / "self/mountinfo").read_text())


def mount_of(path: str, among: Iterable[Mount]) -> Mount | None:
    """Return the mount that `path` lies on."""
    holding = [mount for mount in among
               if path == mount.path or path.startswith(mount.path.rstrip("/") + "/")]
    return max(holding, key=lambda mount: len(mount.path), default=None)


def parse_bound(table: str, *, listening: bool) -> list[Bound]:
    """Parse /proc/net/{tcp,udp}{,6}; with `listening` only sockets in state LISTEN."""
    found = []
    for line in table.splitlines()[1:]:
        columns = line.split()
        if listening and columns[3] != _LISTEN:
            continue
        address, port = columns[1].split(":")
        # 32-bit words, each printed as the host's integer: little-endian on all supported hosts.
        words = bytes.fromhex(address)
        packed = b"".join(words[at:at + 4][::-1] for at in range(0, len(words), 4))
        found.append(Bound(ip_address(packed), int(port, 16)))
    return found


def bound(protocol: str, *, listening: bool = False) -> list[Bound]:
    """Return the sockets of "tcp" or "udp", both families, in this network namespace."""
    return [one for name in (protocol, f"{protocol}6")
            if (path := PROC / "net" / name).exists()
            for one in parse_bound(path.read_text(), listening=listening)]


def has_link(name: str) -> bool:
    """Tell whether this network namespace has the interface."""
    return any(line.split(":")[0].strip() == name
               for line in (PROC / "net/dev").read_text().splitlines()[2:])


def runs(name: str) -> bool:
    """Tell whether a program of this name runs in this network namespace."""
    here = os.stat(PROC / "self/ns/net").st_ino
    for comm in PROC.glob("[0-9]*/comm"):
        try:
            if (comm.read_text().strip() == name[:_NAME_BYTES]
                    and os.stat(comm.parent / "ns/net").st_ino == here):
                return True
        except OSError:  # it has ended
            continue
    return False


def slim_links() -> list[tuple[str, int]]:
    """Return the names and indices of slim's interfaces in this network namespace."""
    return [(name, ifindex) for ifindex, name in socket.if_nameindex()
            if re.fullmatch(r"s[lc][0-9a-f]{11}|slim-.*", name)]
