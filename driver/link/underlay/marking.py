"""Sends a test's marked packets, and hears those of other hosts, on the underlay's device.

What arrives is read where the host's own packet filter has not seen it yet, and overlay packets
again where the VXLAN device hands them out: the difference is what the filter does.  The sockets
are open only while a test runs.
"""

from __future__ import annotations

import ctypes
import errno
import random
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from driver.errors import LinkError
from driver.link.netlink.names import VXLAN_NAME
from driver.link.underlay import marked
from driver.link.underlay.echoes import Echoes
from driver.link.underlay.syn_probe import syn
from driver.model import HostAddress
from driver.services.ports import Heard, ProbeFlow, Sent, Target

_ETH_P_ALL: Final = 3  # earlier than tc's ingress, unlike a single kind
_SO_ATTACH_FILTER, _SO_NO_CHECK, _SO_RCVBUFFORCE, _SO_BINDTOIFINDEX = 26, 11, 33, 62
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_FRAGMENT, _WHOLE = 0, 3  # IP_PMTUDISC_DONT, as the overlay's packets; _PROBE
_ORIGINS: Final = (1, 2, 3)  # SO_EE_ORIGIN_LOCAL, _ICMP, _ICMP6
_EXTENDED_ERROR: Final = struct.Struct("=IBBBxII")  # sock_extended_err
_BUFFER_BYTES: Final = 8 << 20  # fifty hosts' packets, while others still get ready
_PACKET_BYTES: Final = 1 << 16
_PACE_S: Final = 0.002  # between targets
_REFUSES: Final = (errno.EPERM, errno.EACCES, errno.ENETUNREACH)  # at once, and for good


@dataclass(frozen=True)
class _Kind:
    """What differs between IPv4 and IPv6."""

    family: int
    level: int  # of socket options
    mtu_discover: int  # IP_MTU_DISCOVER, IPV6_...
    recverr: int  # IP_RECVERR, IPV6_...
    as_overlay: tuple[tuple[int, int, int], ...]  # options of a socket that sends as the overlay


_KINDS: Final = {
    4: _Kind(socket.AF_INET, socket.IPPROTO_IP, 10, 11, (
        (socket.SOL_SOCKET, _SO_NO_CHECK, 1), (socket.IPPROTO_IP, 10, _FRAGMENT))),
    # With a checksum, and nobody fragments them: the VXLAN device drops what is too long.
    6: _Kind(socket.AF_INET6, socket.IPPROTO_IPV6, 23, 25, ((socket.IPPROTO_IPV6, 23, _WHOLE),)),
}


class KernelMarker:
    """driver.services.ports.Marker on this host's underlay."""

    def __init__(self, underlay: HostAddress, ifindex: int, source_ports: Sequence[int]) -> None:
        """source_ports: those of containers' connections, for SYNs."""
        self._underlay = underlay
        self._ifindex = ifindex
        self._source_ports = source_ports

    @contextmanager
    def marking(self, token: bytes) -> Iterator[KernelMarking]:
        """See ports.Marker."""
        with ExitStack() as opened:
            try:
                overlay_ifindex = socket.if_nametoindex(VXLAN_NAME)
                made = KernelMarking(
                    token, self._underlay, self._source_ports,
                    arrivals=_tap(opened, self._ifindex, marked.underlay_filter(
                        token, self._underlay.version)),
                    passed=_tap(opened, overlay_ifindex, marked.overlay_filter(token)),
                    overlay=_sender(opened, self._underlay, whole=False),
                    whole=_sender(opened, self._underlay, whole=True),
                    raw=_raw(opened, self._underlay, self._ifindex),
                    echoes=opened.enter_context(Echoes(
                        token[:2], self._underlay.version)))
            except OSError as error:
                raise LinkError(f"cannot test the ways to other hosts: {error}") from error
            yield made


@dataclass
class _Heard:
    arrived: set[int] = field(default_factory=set)
    passed: set[int] = field(default_factory=set)
    damaged: set[int] = field(default_factory=set)
    whole: int = 0
    syns: set[int] = field(default_factory=set)
    stripped: set[int] = field(default_factory=set)
    seen_as: str = ""


@dataclass
class _Sent:
    refused: str = ""
    syns_refused: str = ""
    told_mtu: int = 0


class KernelMarking:
    """driver.services.ports.Marking with packet and datagram sockets.  For one thread."""

    def __init__(self, token: bytes, underlay: HostAddress, source_ports: Sequence[int], *,
                 arrivals: socket.socket, passed: socket.socket, overlay: socket.socket,
                 whole: socket.socket, raw: socket.socket, echoes: Echoes) -> None:
        """All sockets are the caller's, who closes them."""
        self._token = token
        self._underlay = underlay
        self._kind = _KINDS[underlay.version]
        self._headers = marked.headers(underlay.version)
        self._source_ports = source_ports
        self._arrivals = arrivals
        self._passed = passed
        self._overlay = overlay
        self._whole = whole
        self._raw = raw
        self._echoes = echoes
        self._sent: dict[HostAddress, _Sent] = {}
        self._heard: dict[HostAddress, _Heard] = {}
        self._poll = select.poll()
        for each in (arrivals, passed, echoes.socket):
            self._poll.register(each, select.POLLIN)
        for each in (overlay, whole):
            self._poll.register(each, 0)  # errors only

    def send(self, targets: Sequence[Target]) -> None:
        """See ports.Marking."""
        for target in targets:
            noted = self._sent.setdefault(target.underlay, _Sent())
            self._echoes.ask(target.underlay)
            for size in target.sizes:
                noted.refused = self._send(self._overlay, target, size, whole=False)
            for bytes_ in target.whole:
                self._send(self._whole, target, bytes_ - self._headers, whole=True)
            for port in target.ports:
                noted.syns_refused = self._send_syn(target.underlay, port)
            self.listen(_PACE_S)

    def _send(self, sender: socket.socket, target: Target, size: int, *, whole: bool) -> str:
        """Send one overlay packet; return why this host does not let it out, "" if it does."""
        data = marked.payload(marked.body(self._token, self._underlay, size, whole=whole))
        for _ in range(2):  # an earlier datagram's error may be reported in place of sending
            try:
                sender.sendto(data, (str(target.underlay), target.vxlan_port))
                return ""
            except OSError as error:
                self._read_errors(sender)
                if error.errno in _REFUSES:
                    return str(error.strerror)
        return ""  # too long for the device, or its error comes again: nothing will arrive

    def _send_syn(self, host: HostAddress, port: int) -> str:
        flow = ProbeFlow(host, port, random.choice(self._source_ports))  # noqa: S311
        try:
            self._raw.sendto(syn(self._underlay, flow, marked.sequence(self._token), 0),
                             (str(host), 0))
        except OSError as error:
            return str(error.strerror)
        return ""

    def listen(self, seconds: float) -> None:
        """See ports.Marking."""
        end_s = time.monotonic() + seconds
        while True:
            left_s = max(0.0, end_s - time.monotonic())
            ready = {number for number, _ in self._poll.poll(left_s * 1000)}
            if self._arrivals.fileno() in ready:
                self._read_arrivals()
            if self._passed.fileno() in ready:
                self._read_passed()
            if self._echoes.socket.fileno() in ready:
                self._echoes.read()
            for sender in (self._overlay, self._whole):
                if sender.fileno() in ready:
                    self._read_errors(sender)
            if not left_s:
                return

    def _read_arrivals(self) -> None:
        for packet in _received(self._arrivals):
            source, found = marked.read_packet(packet)
            if found is None:
                continue
            heard = self._heard.setdefault(found.sender, _Heard())
            if isinstance(found, marked.MarkedSyn):
                (heard.syns if found.has_option else heard.stripped).add(found.port)
                continue
            if source != found.sender:
                heard.seen_as = str(source)
            if found.whole:
                heard.whole = max(heard.whole, found.size + self._headers)
            else:
                heard.arrived.add(found.size)
                if source.version == 6 and not found.intact:
                    heard.damaged.add(found.size)  # its checksum keeps it from coming further

    def _read_passed(self) -> None:
        for inner in _received(self._passed):
            found = marked.read_body(inner)
            if found is not None and not found.whole:
                heard = self._heard.setdefault(found.sender, _Heard())
                (heard.passed if found.intact else heard.damaged).add(found.size)

    def _read_errors(self, sender: socket.socket) -> None:
        while True:
            try:
                _, control, _, destination = sender.recvmsg(1, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return  # EAGAIN: that was all
            for level, kind, data in control:
                if (level, kind) != (self._kind.level, self._kind.recverr):
                    continue
                number, origin, _, _, told, _ = _EXTENDED_ERROR.unpack_from(data)
                if number == errno.EMSGSIZE and origin in _ORIGINS and destination:
                    noted = self._sent.get(ip_address(destination[0]))
                    if noted is not None and told:
                        noted.told_mtu = min(noted.told_mtu or told, told)

    def sent(self) -> Mapping[HostAddress, Sent]:
        """See ports.Marking."""
        return {host: Sent(self._echoes.shortest_us(host), each.refused, each.syns_refused,
                           each.told_mtu) for host, each in self._sent.items()}

    def heard(self) -> Mapping[HostAddress, Heard]:
        """See ports.Marking."""
        return {host: Heard(frozenset(each.arrived), frozenset(each.passed),
                            frozenset(each.damaged), each.whole, frozenset(each.syns),
                            frozenset(each.stripped), each.seen_as)
                for host, each in self._heard.items()}


def _tap(opened: ExitStack, ifindex: int, program: bytes) -> socket.socket:
    """Open a socket that gets a copy of what comes in by a device and passes the filter."""
    made = opened.enter_context(socket.socket(
        socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0))
    kept = ctypes.create_string_buffer(program)
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack(
        "@HP", len(program) // 8, ctypes.addressof(kept)))
    made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    made.bind((socket.if_indextoname(ifindex), _ETH_P_ALL))
    return made


def _sender(opened: ExitStack, underlay: HostAddress, *, whole: bool) -> socket.socket:
    kind = _KINDS[underlay.version]
    made = opened.enter_context(socket.socket(
        kind.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
    for option in kind.as_overlay:
        made.setsockopt(*option)
    if whole:
        made.setsockopt(kind.level, kind.mtu_discover, _WHOLE)
    made.setsockopt(kind.level, kind.recverr, 1)
    made.bind((str(underlay), 0))
    return made


def _raw(opened: ExitStack, underlay: HostAddress, ifindex: int) -> socket.socket:
    made = opened.enter_context(socket.socket(
        _KINDS[underlay.version].family, socket.SOCK_RAW | socket.SOCK_NONBLOCK,
        socket.IPPROTO_RAW))
    made.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, ifindex)  # as the host path's packets
    return made


def _received(tap: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield tap.recv(_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            return  # the device went down
