"""Measures round trips to other hosts with ICMP echo; the kernel notes when an answer came."""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from ipaddress import IPv4Address
from types import TracebackType
from typing import Final, Self

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_HEAD: Final = struct.Struct("!BBHHH")  # type, code, checksum, id, number
_SOL_RAW, _ICMP_FILTER = 255, 1
_SO_TIMESTAMPNS: Final = 35
_TIMESPEC: Final = struct.Struct("@qq")


class Echoes:
    """One raw socket and what was asked with it.  For one thread."""

    def __init__(self, name: bytes) -> None:
        """Name: two bytes, this socket's echoes' id.  Error: OSError."""
        self._id = int.from_bytes(name)
        self._number = int.from_bytes(os.urandom(2))
        self._asked: dict[int, tuple[IPv4Address, int]] = {}  # number -> host, when (ns)
        self._shortest_us: dict[IPv4Address, int] = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK,
                                    socket.IPPROTO_ICMP)
        try:
            self.socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack(
                "=I", ~(1 << _ECHO_REPLY) & 0xffffffff))
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.socket.close()

    def ask(self, host: IPv4Address) -> None:
        """Send an echo request; one that cannot be sent has no answer."""
        self._number = (self._number + 1) & 0xffff
        head = _HEAD.pack(_ECHO_REQUEST, 0, 0, self._id, self._number)
        total = sum(struct.unpack("!4H", head))
        total = (total & 0xffff) + (total >> 16)
        packet = _HEAD.pack(_ECHO_REQUEST, 0, ~total & 0xffff, self._id, self._number)
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
            at = (packet[0] & 0xf) * 4
            if len(packet) < at + _HEAD.size:
                continue
            kind, _, _, name, number = _HEAD.unpack_from(packet, at)
            host, sent_ns = self._asked.get(number, (None, 0))
            if kind != _ECHO_REPLY or name != self._id or str(host) != source[0] or host is None:
                continue
            came_ns = time.time_ns()
            for level, what, data in control:
                if (level, what) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                    seconds, rest_ns = _TIMESPEC.unpack(data)
                    came_ns = seconds * 10**9 + rest_ns
            took_us = max(1000, came_ns - sent_ns) // 1000
            self._shortest_us[host] = min(took_us, self._shortest_us.get(host, took_us))

    def shortest_us(self, host: IPv4Address) -> int:
        """Return the shortest round trip; -1: nothing came."""
        return self._shortest_us.get(host, -1)
