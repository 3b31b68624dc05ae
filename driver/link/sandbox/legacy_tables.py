"""Reads the tables of iptables-legacy (x_tables) in the calling thread's namespace.

The kernel returns them by getsockopt() on any socket of the family.  A table that nobody has used
is absent; one that somebody has listed has chains without rules.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from driver.errors import LinkError

_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_..., IP6T_SO_GET_...
_HOOKS: Final = 5  # NF_INET_NUMHOOKS
_INFO: Final = struct.Struct(f"=32sI{_HOOKS}I{_HOOKS}III")  # struct ipt_getinfo
_HEAD: Final = struct.Struct("=32sI4x")  # struct ipt_get_entries, in front of the entries
_ADDRESSES: Final = struct.Struct("=4s4s4s4s")  # source, destination, their masks
_FLAGS_AT = 83  # in struct ipt_entry: of invflags
_INVERTED: Final = 0x08 | 0x10  # IPT_INV_SRCIP, IPT_INV_DSTIP
_ACCEPT: Final = -2  # verdict of a standard target: -NF_ACCEPT - 1
_TRIES: Final = 5  # a table that changes between the two calls has another size


@dataclass(frozen=True)
class _Family:
    names: str  # file with the names of its tables
    domain: int  # of a socket that shows them
    level: int  # of their options
    offsets_at: int  # in an entry: of the 16-bit offsets of its target and of the next entry
    entry: int  # bytes of struct ipt_entry, struct ip6t_entry


_IPV4: Final = _Family("/proc/thread-self/net/ip_tables_names", socket.AF_INET,
                       socket.IPPROTO_IP, 88, 112)
_IPV6: Final = _Family("/proc/thread-self/net/ip6_tables_names", socket.AF_INET6,
                       socket.IPPROTO_IPV6, 140, 168)

_libc = ctypes.CDLL(None, use_errno=True)


def own_legacy_rules(*, ipv6: bool) -> str:
    """Name a table with a rule about more than loopback addresses, or a drop policy; "": none.

    ipv6: look at ip6tables-legacy, too.  Error: LinkError.
    """
    return _own_rules(_IPV4, "iptables-legacy") or (
        _own_rules(_IPV6, "ip6tables-legacy") if ipv6 else "")


def _own_rules(family: _Family, what: str) -> str:
    try:
        with open(family.names, encoding="ascii") as names:
            tables = names.read().split()
    except OSError:
        return ""  # this kernel lacks them
    if not tables:
        return ""
    with socket.socket(family.domain, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_:
        for table in tables:
            hooks, entries = _read(any_, family, table)
            for first, policy in hooks:
                if any(family is _IPV6 or not _is_about_loopback(entry)
                       for entry in _walk(family, entries, first, policy)):
                    return f"{what}: table {table} has rules"
                if _verdict(family, entries, policy) != _ACCEPT:
                    return f"{what}: table {table} drops by a policy"
    return ""


def _read(raw: socket.socket, family: _Family, table: str) -> tuple[list[tuple[int, int]], bytes]:
    """Return the built-in chains, each as (first entry, policy) offsets, and the entries."""
    for _ in range(_TRIES):
        info = _INFO.unpack(_get(raw, family, _GET_INFO, _INFO.pack(table.encode(), *[0] * 13)))
        valid, starts, policies = info[1], info[2:2 + _HOOKS], info[2 + _HOOKS:2 + 2 * _HOOKS]
        size = info[-1]
        try:
            found = _get(raw, family, _GET_ENTRIES, _HEAD.pack(table.encode(), size) + bytes(size))
        except OSError as error:
            if error.errno == errno.EAGAIN:
                continue
            raise LinkError(f"read the container's table {table} of iptables-legacy: {error}"
                            ) from error
        return ([(starts[hook], policies[hook]) for hook in range(_HOOKS) if valid >> hook & 1],
                found[_HEAD.size:])
    raise LinkError(f"the container's table {table} of iptables-legacy changes all the time")


def _get(raw: socket.socket, family: _Family, option: int, asked: bytes) -> bytes:
    """Call getsockopt() with an input buffer, which Python's does not pass."""
    buffer = ctypes.create_string_buffer(asked, len(asked))
    length = ctypes.c_uint32(len(asked))
    if _libc.getsockopt(raw.fileno(), family.level, option, buffer, ctypes.byref(length)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw


def _walk(family: _Family, entries: bytes, first: int, policy: int) -> Iterator[bytes]:
    while first < policy:
        _, following = struct.unpack_from("=HH", entries, first + family.offsets_at)
        yield entries[first:first + family.entry]
        first += following


def _is_about_loopback(entry: bytes) -> bool:
    source, destination, source_mask, destination_mask = _ADDRESSES.unpack_from(entry)
    return not entry[_FLAGS_AT] & _INVERTED and any(
        mask[0] == 255 and address[0] == 127
        for address, mask in ((source, source_mask), (destination, destination_mask)))


def _verdict(family: _Family, entries: bytes, at: int) -> int:
    target, _ = struct.unpack_from("=HH", entries, at + family.offsets_at)
    return int(struct.unpack_from("=i", entries, at + target + 32)[0])
