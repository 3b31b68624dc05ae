"""Asks other machines of the underlay for a sign of life; any answer of theirs is one.

It sends an ICMP echo request, where allowed, and a UDP datagram.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Final

from driver.errors import LinkError
from driver.model import HostAddress
from driver.services.ports import Presence

# A datagram to a port where nobody listens is answered by "port unreachable".  It is traceroute's
# port, which firewalls know for this purpose.
_PORT: Final = 33434
_EXTENDED_ERROR: Final = struct.Struct("=IBBBxII")  # sock_extended_err
_DATAGRAM_BYTES: Final = 576
_ICMPV6_FILTER: Final = 1  # a socket option: which types are not received, a bit each


@dataclass(frozen=True)
class _Kind:
    """What differs between IPv4 and IPv6 (RFC 792; RFC 4443)."""

    family: int
    level: int  # of socket options
    recverr: int  # IP_RECVERR, IPV6_RECVERR
    icmp: int  # protocol
    origin: int  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
    echo_request: int
    echo_reply: int
    unreachable: int
    nobody_there: tuple[int, int]  # codes of `unreachable`: network, host
    speaker_at: int  # of the address in a sockaddr
    address_bytes: int

    @property
    def error_bytes(self) -> int:
        """An error with the sockaddr of its sender up to the address's end."""
        return _EXTENDED_ERROR.size + self.speaker_at + self.address_bytes


_KINDS: Final = {
    4: _Kind(socket.AF_INET, socket.IPPROTO_IP, 11, socket.IPPROTO_ICMP, 2, 8, 0, 3, (0, 1), 4, 4),
    6: _Kind(socket.AF_INET6, socket.IPPROTO_IPV6, 25, socket.IPPROTO_ICMPV6, 3, 128, 129, 1,
             (0, 3), 8, 16),
}


@dataclass(frozen=True)
class _Sockets:
    kind: _Kind
    udp: socket.socket
    icmp: socket.socket | None  # None: not allowed

    def close(self) -> None:
        for opened in (self.udp, self.icmp):
            if opened is not None:
                opened.close()


class UnderlayProber:
    """driver.services.ports.Prober: ICMP echo where it is allowed, and a UDP datagram.

    Its sockets stay open: the error of an unanswered ARP request comes seconds later, and counts
    for the next call.  Not thread-safe: for one thread.
    """

    def __init__(self) -> None:
        self._opened: dict[int, _Sockets] = {}  # by IP version
        self._id = os.getpid() & 0xffff

    def close(self) -> None:
        """Close the sockets; the next probe opens them again."""
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()

    def probe(self, hosts: Collection[HostAddress], wait_s: float
              ) -> dict[HostAddress, Presence]:
        """See ports.Prober.  Waits until all have answered, at most `wait_s`."""
        found = dict.fromkeys(hosts, Presence.SILENT)
        if not found:
            return found
        opened = {version: self._open(version) for version in {host.version for host in found}}
        for host in found:
            self._ask(opened[host.version], host, found)
        poll = select.poll()
        for each in opened.values():
            poll.register(each.udp, 0)  # errors only
            if each.icmp is not None:
                poll.register(each.icmp, select.POLLIN)
        end_s = time.monotonic() + wait_s
        while Presence.SILENT in found.values():
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                break
            for each in opened.values():
                self._read_errors(each.kind, each.udp, found)
                if each.icmp is not None:
                    self._read_errors(each.kind, each.icmp, found)
                    self._read_replies(each.kind, each.icmp, found)
        return found

    def _open(self, version: int) -> _Sockets:
        if version not in self._opened:
            kind, icmp = _KINDS[version], None
            try:
                udp = socket.socket(kind.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                udp.setsockopt(kind.level, kind.recverr, 1)
            except OSError as error:
                raise LinkError(f"cannot ask peers for a sign of life: {error}") from error
            with suppress(PermissionError):  # without CAP_NET_RAW the datagram has to do
                icmp = socket.socket(kind.family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, kind.icmp)
                icmp.setsockopt(kind.level, kind.recverr, 1)
                if version == 6:
                    icmp.setsockopt(kind.icmp, _ICMPV6_FILTER, _all_but(kind.echo_reply))
            self._opened[version] = _Sockets(kind, udp, icmp)
        return self._opened[version]

    def _ask(self, opened: _Sockets, host: HostAddress, found: dict[HostAddress, Presence]) -> None:
        for sender, data in ((opened.udp, b"\0"), (opened.icmp, self._echo_request(opened.kind))):
            if sender is None:
                continue
            try:
                # Raw sockets of IPv6 take no port.
                sender.sendto(data, (str(host), _PORT if sender is opened.udp else 0))
            except OSError as error:
                # An earlier datagram's error may be reported here; it is in the queue as well.
                if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                    _learn(found, host, Presence.ABSENT)

    def _echo_request(self, kind: _Kind) -> bytes:
        head = struct.pack("!BBHHH", kind.echo_request, 0, 0, self._id, 1)
        total = sum(struct.unpack("!4H", head))  # for IPv6, the kernel writes the checksum
        total = (total & 0xffff) + (total >> 16)
        return struct.pack("!BBHHH", kind.echo_request, 0, ~total & 0xffff, self._id, 1)

    @staticmethod
    def _read_errors(kind: _Kind, sender: socket.socket, found: dict[HostAddress, Presence]
                     ) -> None:
        while True:
            try:
                _, control, _, destination = sender.recvmsg(
                    _DATAGRAM_BYTES, socket.CMSG_SPACE(kind.error_bytes + 16), socket.MSG_ERRQUEUE)
            except OSError:
                return  # EAGAIN: that was all
            for level, type_, data in control:
                if (level, type_) != (kind.level, kind.recverr) or len(data) < kind.error_bytes:
                    continue
                _, origin, icmp_type, code, _, _ = _EXTENDED_ERROR.unpack_from(data)
                speaker = ip_address(bytes(
                    data[kind.error_bytes - kind.address_bytes:kind.error_bytes]))
                host = ip_address(destination[0])
                if origin != kind.origin:
                    continue
                if speaker == host:
                    _learn(found, host, Presence.ANSWERED)  # any complaint is an answer
                elif icmp_type == kind.unreachable and code in kind.nobody_there:
                    # From a router, or from this host itself: nobody answered when it asked for
                    # the host's MAC address.
                    _learn(found, host, Presence.ABSENT)

    def _read_replies(self, kind: _Kind, icmp: socket.socket, found: dict[HostAddress, Presence]
                      ) -> None:
        while True:
            try:
                packet, source = icmp.recvfrom(_DATAGRAM_BYTES)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return
                continue  # an error reported here; it is in the queue as well
            host = ip_address(source[0])
            # Of IPv6, the header is not received.
            at = (packet[0] & 0xf) * 4 if isinstance(host, IPv4Address) and packet else 0
            if len(packet) < at + 8 or packet[at] != kind.echo_reply:
                continue
            if struct.unpack_from("!H", packet, at + 4)[0] == self._id:
                _learn(found, host, Presence.ANSWERED)


def _all_but(icmp_type: int) -> bytes:
    """A filter that blocks all other types: 256 bits, in words of the host's order."""
    words = [0xffffffff] * 8
    words[icmp_type >> 5] &= ~(1 << (icmp_type & 31))
    return struct.pack("=8I", *words)


def _learn(found: dict[HostAddress, Presence], host: HostAddress, presence: Presence) -> None:
    if host in found and found[host] is not Presence.ANSWERED:
        found[host] = presence
