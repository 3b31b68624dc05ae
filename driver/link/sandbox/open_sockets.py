"""Reads the open TCP connections and the listeners of sandboxes, with what programs keep with them.

sock_diag gives all in one dump: addresses, tcp_info, and socket storage of eBPF programs (Linux
5.8).  The dump is read as a stream, so a sandbox may have any number of them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from driver.errors import LinkError
from driver.link.netlink import netns, sock_diag
from driver.link.netlink.sock_diag import LISTEN
from driver.services.ports import OpenSocket

_STATES: Final = {1: "ESTAB", 2: "SYN-SENT", 4: "FIN-WAIT-1", 5: "FIN-WAIT-2", 8: "CLOSE-WAIT",
                  9: "LAST-ACK", LISTEN: "LISTEN", 11: "CLOSING"}  # as ss(8) spells them
_OPEN: Final = sum(1 << state for state in _STATES if state != LISTEN)
_WITH_INFO: Final = 1 << 1  # INET_DIAG_INFO
# From the start of a message, header included: family, state, ports, addresses; behind the
# interface the cookie; and behind 4 bytes of other things the queues.
_FIXED: Final = struct.Struct("=16x BB2x 2s2s 16s 16s 4x Q 4x II")
_ATTRIBUTES: Final = 16 + 72  # behind nlmsghdr and inet_diag_msg
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_TYPE: Final = 0x3fff  # without NLA_F_NESTED and the like
_INFO, _STORAGES = 2, 20  # INET_DIAG_INFO, INET_DIAG_SK_BPF_STORAGES
_MAP_ID, _MAP_VALUE = 2, 3  # SK_DIAG_BPF_STORAGE_...
_ASK_STORAGES, _ASK_MAP = 2, 1  # INET_DIAG_REQ_SK_BPF_STORAGES, SK_DIAG_BPF_STORAGE_REQ_MAP_FD
_NESTED: Final = 0x8000
# struct tcp_info.
_RTT_AT, _RETRANSMITTED_AT, _RECEIVED_AT, _SENT_AT = 68, 100, 128, 200
_INFO_BYTES: Final = 216
_MAPPED: Final = bytes(10) + b"\xff\xff"
_IPV6_ONLY: Final = Path("/proc/sys/net/ipv6/bindv6only")


class DiagSockets:
    """ports.Sockets by sock_diag."""

    def __init__(self, storages: Sequence[int], path_of: Callable[[str], str] = netns.same_path
                 ) -> None:
        """storages: descriptors of the maps whose socket storage is read, too.

        path_of: turns a SandboxKey into the path that this process sees.
        """
        self._request = _nested(_ASK_STORAGES, b"".join(
            _attribute(_ASK_MAP, struct.pack("=I", fd)) for fd in storages))
        self._path_of = path_of

    def read(self, sandbox_key: str, take: Callable[[OpenSocket], bool], *, listening: bool
             ) -> bool:
        """See ports.Sockets."""
        states = 1 << LISTEN if listening else _OPEN

        def here() -> None:
            try:
                with sock_diag.opened() as asking:
                    for family in (socket.AF_INET, socket.AF_INET6):
                        sock_diag.ask(asking, family, states, extensions=_WITH_INFO,
                                      attributes=self._request)
                        for buffer, at, length in sock_diag.answers(asking):
                            found = _socket(buffer, at, length)
                            if found is not None and not take(found):
                                return
            except OSError as error:
                raise LinkError(f"cannot list sockets: {error.strerror}") from error

        try:
            netns.run_in(self._path_of(sandbox_key), here)
        except netns.NamespaceAbsent:
            return False
        return True

    def ipv6_only(self, sandbox_key: str) -> bool:
        """See ports.Sockets."""
        return netns.run_in(self._path_of(sandbox_key), _ipv6_only)


def _ipv6_only() -> bool:
    try:
        return _IPV6_ONLY.read_text().strip() != "0"
    except OSError:  # a host that was booted without IPv6
        return False


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value  # all are 4 bytes long


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _attributes(buffer: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield type, begin and end of each attribute's value."""
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(buffer, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE, at + _ATTRIBUTE.size, at + length
        at += (length + 3) & ~3


def _socket(buffer: bytes, at: int, length: int) -> OpenSocket | None:
    """Return the socket; None for what has no tcp_info: the remains of one that no program has."""
    family, state, sport, dport, source, peer, cookie, waiting, backlog = (
        _FIXED.unpack_from(buffer, at))
    rtt_us = retransmissions = received = sent = 0
    storages: dict[int, bytes] = {}
    is_whole = is_listener = state == LISTEN
    for kind, begin, end in _attributes(buffer, at + _ATTRIBUTES, at + length):
        if kind == _INFO and end - begin >= _INFO_BYTES:
            is_whole = True
            rtt_us, = struct.unpack_from("=I", buffer, begin + _RTT_AT)
            retransmissions, = struct.unpack_from("=I", buffer, begin + _RETRANSMITTED_AT)
            received, = struct.unpack_from("=Q", buffer, begin + _RECEIVED_AT)
            all_sent, again = struct.unpack_from("=QQ", buffer, begin + _SENT_AT)
            sent = max(0, all_sent - again)
        elif kind == _STORAGES:
            storages.update(_storages(buffer, begin, end))
    if not is_whole:
        return None
    return OpenSocket(
        _address(family, source), int.from_bytes(sport, "big"), _address(family, peer),
        int.from_bytes(dport, "big"), _STATES.get(state, str(state)), storages, rtt_us,
        retransmissions, received, sent, waiting if is_listener else 0,
        backlog if is_listener else 0, cookie)


def _storages(buffer: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    for _, begin, limit in _attributes(buffer, at, end):
        found = {kind: buffer[first:last] for kind, first, last in _attributes(
            buffer, begin, limit)}
        if _MAP_ID in found and _MAP_VALUE in found:
            yield struct.unpack("=I", found[_MAP_ID])[0], found[_MAP_VALUE]


def _address(family: int, packed: bytes) -> IPv4Address | IPv6Address:
    if family == socket.AF_INET:
        return IPv4Address(packed[:4])
    return IPv4Address(packed[12:]) if packed.startswith(_MAPPED) else IPv6Address(packed)
