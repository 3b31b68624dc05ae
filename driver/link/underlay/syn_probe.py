"""Probes other hosts with a SYN of the host path to virtual port 0, as in docs/wire.md.

The SYN is sent from a raw socket; the answer is read from the probe table.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import struct
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Final

from driver.errors import LinkError
from driver.model import HostAddress
from driver.services.ports import Probe, ProbeFlow, ProbeTable, Reply

log = logging.getLogger(__name__)

_SO_BINDTOIFINDEX: Final = 62
_OPTION_KIND, _EXPERIMENT = 254, 0x5e1d  # kernel/include/option.h
_PROOF: Final = _EXPERIMENT  # window of an answer from a host that has seen the option
_SYN, _DONT_FRAGMENT, _TTL = 0x02, 0x4000, 64
_WINDOW: Final = 64240  # Linux's, like the options
_OPTIONS: Final = struct.Struct("!BBHBBBBIIBBBB")  # MSS, SACK, timestamps, NOP, window scale
_ATTEMPTS: Final = 4  # to find a source port that no container uses towards that endpoint
_LOOK_S, _LOOK_MAX_S = 0.002, 0.05  # between looks at the answers; doubled, up to the maximum


class RawSynProber:
    """driver.services.ports.SynProber with a raw socket.  Not thread-safe: for one thread."""

    def __init__(self, table: ProbeTable, underlay: HostAddress, ifindex: int,
                 source_ports: Sequence[int]) -> None:
        """source_ports: those of containers' connections, so that answers come the same way."""
        self._table = table
        self._underlay = underlay
        self._ifindex = ifindex
        self._source_ports = source_ports
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Close the socket; the next probe opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, probes: Collection[Probe], wait_s: float) -> dict[Probe, Reply]:
        """See ports.SynProber."""
        sender = self._open()
        replies = dict.fromkeys(probes, Reply.UNSENT)
        waiting: dict[Probe, ProbeFlow] = {}
        with ExitStack() as expected:
            for probe in replies:
                flow = self._send(sender, probe, expected)
                if flow is not None:
                    waiting[probe], replies[probe] = flow, Reply.NONE
            end_s, pause_s = time.monotonic() + wait_s, _LOOK_S
            while waiting and (left_s := end_s - time.monotonic()) > 0:
                time.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, _LOOK_MAX_S)
                for probe, flow in list(waiting.items()):
                    window = self._table.window(flow)
                    if window is not None:
                        replies[probe] = Reply.PROVEN if window == _PROOF else Reply.PLAIN
                        del waiting[probe]
        return replies

    def _open(self) -> socket.socket:
        if self._socket is None:
            try:
                # With IPPROTO_RAW the IP header is ours, for IPv6, too.
                opened = socket.socket(
                    socket.AF_INET if self._underlay.version == 4 else socket.AF_INET6,
                    socket.SOCK_RAW, socket.IPPROTO_RAW)
            except OSError as error:
                raise LinkError(f"cannot probe peers: {error}") from error
            # Send by the host path's device, even if routes name another one.
            opened.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, self._ifindex)
            opened.setblocking(False)
            self._socket = opened
        return self._socket

    def _send(self, sender: socket.socket, probe: Probe, expected: ExitStack
              ) -> ProbeFlow | None:
        """Send one probe; None: it could not be sent."""
        sequence = int.from_bytes(os.urandom(4))
        for _ in range(_ATTEMPTS):
            flow = ProbeFlow(probe.host, probe.port, random.choice(self._source_ports))  # noqa: S311
            if not self._table.expect(flow, sequence):
                continue
            expected.callback(self._table.forget, flow)
            try:
                sender.sendto(syn(self._underlay, flow, sequence, probe.caller),
                              (str(probe.host), 0))
            except OSError as error:
                # EPERM: this host's own packet filter, which containers' packets bypass.
                log.debug("probe of %s: %s", probe.host, error)
                return None
            return flow
        return None


def syn(source: HostAddress, flow: ProbeFlow, sequence: int, caller: int) -> bytes:
    """Return the packet: Linux's SYN plus our option; the kernel adds IPv4's checksum."""
    options = _OPTIONS.pack(2, 4, 1460, 4, 2, 8, 10, sequence ^ 0x5a5a5a5a, 0, 1, 3, 3, 7)
    options += struct.pack("!BBHHH", _OPTION_KIND, 8, _EXPERIMENT, 0, caller)
    length = 20 + len(options)
    head = struct.pack("!HHIIBBH", flow.source_port, flow.port, sequence, 0, length // 4 << 4,
                       _SYN, _WINDOW)
    pseudo = source.packed + flow.host.packed + struct.pack("!II", length, socket.IPPROTO_TCP)
    check = _checksum(pseudo + head + options)
    return (_ip_header(source, flow.host, length) + head + struct.pack("!HH", check, 0) + options)


def _ip_header(source: HostAddress, to: HostAddress, length: int) -> bytes:
    """Return the header of a packet with `length` bytes of TCP."""
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_TCP, _TTL) + (
            source.packed + to.packed)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, _DONT_FRAGMENT, _TTL,
                       socket.IPPROTO_TCP, 0) + source.packed + to.packed


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
