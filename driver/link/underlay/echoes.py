"""Measures round trips to other hosts with ICMP echo, of IPv4 or IPv6.

The kernel notes when an answer came.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from driver.model import HostAddress

_HEAD: Final = struct.Struct("!BBHHH")  # type, code, checksum, id, number
_SOL_RAW, _ICMP_FILTER, _ICMPV6_FILTER = 255, 1, 1
_SO_TIMESTAMPNS: Final = 35
_TIMESPEC: Final = struct.Struct("@qq")


def _all_but(received: int, size: int) -> bytes:
    """Return a filter of so many bytes: a bit for each ICMP type that is not received."""
    bits = ((1 << 8 * size) - 1) & ~(1 << received)
    words = (bits >> 32 * word & 0xffffffff for word in range(size // 4))
    return struct.pack(f"={size // 4}I", *words)


@dataclass(frozen=True)
class _Kind:
    """What differs between IPv4 and IPv6 (RFC 792; RFC 4443)."""

    family: int
    icmp: int  # protocol
    request: int
    reply: int
    filter: tuple[int, int, bytes]  # a socket option: replies only
    has_header: bool  # what is received begins with the IP header


_KINDS: Final = {
    4: _Kind(socket.AF_INET, socket.IPPROTO_ICMP, 8, 0, (
        _SOL_RAW, _ICMP_FILTER, _all_but(0, 4)), True),
    6: _Kind(socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129, (
        socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, _all_but(129, 32)), False),
}


class Echoes:
    """One raw socket and what was asked with it.  For one thread."""

    def __init__(self, name: bytes, version: int) -> None:
        """name: two bytes, this socket's echoes' id.  version: of IP.  Error: OSError."""
        self._kind = _KINDS[version]
        self._id = int.from_bytes(name)
        self._number = int.from_bytes(os.urandom(2))
        self._asked: dict[int, tuple[HostAddress, int]] = {}  # number -> host, when (ns)
        self._shortest_us: dict[HostAddress, int] = {}
        self.socket = socket.socket(self._kind.family, socket.SOCK_RAW | socket.SOCK_NONBLOCK,
                                    self._kind.icmp)
        try:
            self.socket.setsockopt(*self._kind.filter)
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.socket.close()

    def ask(self, host: HostAddress) -> None:
        """Send an echo request; one that cannot be sent has no answer."""
        self._number = (self._number + 1) & 0xffff
        head = _HEAD.pack(self._kind.request, 0, 0, self._id, self._number)
        total = sum(struct.unpack("!4H", head))  # for IPv6, the kernel writes the checksum
        total = (total & 0xffff) + (total >> 16)
        packet = _HEAD.pack(self._kind.request, 0, ~total & 0xffff, self._id, self._number)
        self._asked[self._number] = host, time.time_ns()
        with suppress(OSError):
            self.socket.sendto(packet, (str(host), 0))

    def read(self) -> None:
        """Take the answers that have come."""
        while True:
            try:
                packet, control, _, source = self.socket.recvmsg(
                    256, socket.CMSG_SPACE(_TIMESPEC.size))
            except OSError:
                return
            # Of IPv6, the header is not received.
            at = (packet[0] & 0xf) * 4 if self._kind.has_header and packet else 0
            if len(packet) < at + _HEAD.size:
                continue
            kind, _, _, name, number = _HEAD.unpack_from(packet, at)
            host, sent_ns = self._asked.get(number, (None, 0))
            if (kind, name) != (self._kind.reply, self._id) or (
                    host is None or str(host) != source[0]):
                continue
            came_ns = time.time_ns()
            for level, what, data in control:
                if (level, what) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                    seconds, rest_ns = _TIMESPEC.unpack(data)
                    came_ns = seconds * 10**9 + rest_ns
            took_us = max(1000, came_ns - sent_ns) // 1000
            self._shortest_us[host] = min(took_us, self._shortest_us.get(host, took_us))

    def shortest_us(self, host: HostAddress) -> int:
        """Return the shortest round trip; -1: nothing came."""
        return self._shortest_us.get(host, -1)
