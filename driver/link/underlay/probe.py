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
from ipaddress import IPv4Address
from typing import Final

from driver.errors import LinkError
from driver.services.ports import Presence

# A datagram to a port where nobody listens is answered by "port unreachable".  It is traceroute's
# port, which firewalls know for this purpose.
_PORT: Final = 33434
_IP_RECVERR: Final = 11
_ORIGIN_ICMP: Final = 2  # SO_EE_ORIGIN_ICMP
_ECHO_REPLY, _ECHO_REQUEST, _UNREACHABLE = 0, 8, 3  # ICMP types
_NOBODY_THERE: Final = (0, 1)  # codes of _UNREACHABLE: network, host
_EXTENDED_ERROR: Final = struct.Struct("=IBBBxII")  # sock_extended_err
_ERROR_BYTES: Final = _EXTENDED_ERROR.size + 16  # plus the sockaddr_in of the error's sender
_DATAGRAM_BYTES: Final = 576


class UnderlayProber:
    """driver.services.ports.Prober: ICMP echo where it is allowed, and a UDP datagram.

    Its sockets stay open: the error of an unanswered ARP request comes seconds later, and counts
    for the next call.  Not thread-safe: for one thread.
    """

    def __init__(self) -> None:
        self._udp: socket.socket | None = None
        self._icmp: socket.socket | None = None
        self._id = os.getpid() & 0xffff

    def close(self) -> None:
        """Close the sockets; the next probe opens them again."""
        for opened in (self._udp, self._icmp):
            if opened is not None:
                opened.close()
        self._udp = self._icmp = None

    def probe(self, hosts: Collection[IPv4Address], wait_s: float
              ) -> dict[IPv4Address, Presence]:
        """See ports.Prober.  Waits until all have answered, at most `wait_s`."""
        found = dict.fromkeys(hosts, Presence.SILENT)
        if not found:
            return found
        udp, icmp = self._open()
        for host in found:
            self._ask(udp, icmp, host, found)
        poll = select.poll()
        poll.register(udp, 0)  # errors only
        if icmp is not None:
            poll.register(icmp, select.POLLIN)
        end_s = time.monotonic() + wait_s
        while Presence.SILENT in found.values():
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                break
            self._read_errors(udp, found)
            if icmp is not None:
                self._read_errors(icmp, found)
                self._read_replies(icmp, found)
        return found

    def _open(self) -> tuple[socket.socket, socket.socket | None]:
        if self._udp is None:
            try:
                self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                self._udp.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            except OSError as error:
                raise LinkError(f"cannot ask peers for a sign of life: {error}") from error
            with suppress(PermissionError):  # without CAP_NET_RAW the datagram has to do
                self._icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK,
                                           socket.IPPROTO_ICMP)
                self._icmp.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        return self._udp, self._icmp

    def _ask(self, udp: socket.socket, icmp: socket.socket | None, host: IPv4Address,
             found: dict[IPv4Address, Presence]) -> None:
        for sender, data in ((udp, b"\0"), (icmp, self._echo_request())):
            if sender is None:
                continue
            try:
                sender.sendto(data, (str(host), _PORT))
            except OSError as error:
                # An earlier datagram's error may be reported here; it is in the queue as well.
                if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                    _learn(found, host, Presence.ABSENT)

    def _echo_request(self) -> bytes:
        head = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, self._id, 1)
        total = sum(struct.unpack("!4H", head))
        total = (total & 0xffff) + (total >> 16)
        return struct.pack("!BBHHH", _ECHO_REQUEST, 0, ~total & 0xffff, self._id, 1)

    @staticmethod
    def _read_errors(sender: socket.socket, found: dict[IPv4Address, Presence]) -> None:
        while True:
            try:
                _, control, _, destination = sender.recvmsg(
                    _DATAGRAM_BYTES, socket.CMSG_SPACE(_ERROR_BYTES), socket.MSG_ERRQUEUE)
            except OSError:
                return  # EAGAIN: that was all
            for level, kind, data in control:
                if (level, kind) != (socket.IPPROTO_IP, _IP_RECVERR) or len(data) < _ERROR_BYTES:
                    continue
                _, origin, icmp_type, code, _, _ = _EXTENDED_ERROR.unpack_from(data)
                speaker = IPv4Address(data[_EXTENDED_ERROR.size + 4:_EXTENDED_ERROR.size + 8])
                host = IPv4Address(destination[0])
                if origin != _ORIGIN_ICMP:
                    continue
                if speaker == host:
                    _learn(found, host, Presence.ANSWERED)  # any complaint is an answer
                elif icmp_type == _UNREACHABLE and code in _NOBODY_THERE:
                    # From a router, or from this host itself: nobody answered its ARP requests.
                    _learn(found, host, Presence.ABSENT)

    def _read_replies(self, icmp: socket.socket, found: dict[IPv4Address, Presence]) -> None:
        while True:
            try:
                packet, source = icmp.recvfrom(_DATAGRAM_BYTES)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return
                continue  # an error reported here; it is in the queue as well
            at = (packet[0] & 0xf) * 4
            if len(packet) < at + 8 or packet[at] != _ECHO_REPLY:
                continue
            if struct.unpack_from("!H", packet, at + 4)[0] == self._id:
                _learn(found, IPv4Address(source[0]), Presence.ANSWERED)


def _learn(found: dict[IPv4Address, Presence], host: IPv4Address, presence: Presence) -> None:
    if host in found and found[host] is not Presence.ANSWERED:
        found[host] = presence
