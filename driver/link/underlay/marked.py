"""Packs and recognizes the packets of a test: marked with its token, and like containers' packets.

An overlay packet is VXLAN with VNI 0, which no network has, around a frame of a local experimental
kind (IEEE 802, 0x88b5), which no container gets.  A SYN is one of the host path whose sequence
number is the token's first four bytes.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

ETHERTYPE: Final = 0x88b5
_VXLAN_AND_FRAME: Final = bytes.fromhex(
    "08000000 00000000"  # flags: there is a VNI; VNI 0
    "0273 6c69 6d74 0273 6c69 6d73 88b5".replace(" ", ""))
_BODY: Final = struct.Struct("!8sBxH4s")  # token, whether it is whole, bytes, sender's U
OVERLAY_HEADERS: Final = 20 + 8 + len(_VXLAN_AND_FRAME)  # IPv4, UDP, and those above
_OPTION: Final = bytes((254, 8, 0x5e, 0x1d))
_SYN_HEADER: Final = 20

# Classic BPF (linux/filter.h): loads, jumps and returns.  `_AT_X`: behind the IP header.
_LOAD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_AT_X, _BYTE_AT_X, _X_IP_HEADER = 0x40, 0x50, 0xb1
_EQUAL, _ANY_BIT, _RETURN = 0x15, 0x45, 0x06
_PROTOCOL: Final = 0xfffff000  # SKF_AD_OFF + SKF_AD_PROTOCOL: the Ethernet type
_INSTRUCTION: Final = struct.Struct("=HBBI")
_SNAP: Final = 256  # bytes of a packet that are looked at on the underlay


@dataclass(frozen=True)
class Marked:
    """An overlay packet of a test, as its receiver sees it."""

    sender: IPv4Address  # U, as the sender knows it
    size: int  # bytes, of the packet in the overlay
    whole: bool  # sent with "don't fragment", for the path's MTU
    intact: bool  # each byte is as it was sent; of a packet that was cut off: unknown


@dataclass(frozen=True)
class MarkedSyn:
    """A SYN of a test."""

    sender: IPv4Address
    port: int
    has_option: bool


def body(token: bytes, sender: IPv4Address, size: int, *, whole: bool) -> bytes:
    """Return a packet in the overlay: `size` bytes, of which the sender's address is a part."""
    head = _BODY.pack(token, whole, size, sender.packed)
    return head + hashlib.shake_128(head).digest(size - len(head))


def payload(inner: bytes) -> bytes:
    """Return the UDP payload around a packet in the overlay."""
    return _VXLAN_AND_FRAME + inner


def sequence(token: bytes) -> int:
    """Return the sequence number of a test's SYNs."""
    return int.from_bytes(token[:4])


def read_body(inner: bytes) -> Marked | None:
    """Read a packet in the overlay; None: it is too short."""
    if len(inner) < _BODY.size:
        return None
    token, whole, size, sender = _BODY.unpack_from(inner)
    found = IPv4Address(sender)
    intact = size == len(inner) and inner == body(token, found, size, whole=bool(whole))
    return Marked(found, size, bool(whole), intact)


def read_packet(packet: bytes) -> tuple[IPv4Address, Marked | MarkedSyn | None]:
    """Read an IP packet that the underlay's filter let pass, or its beginning; with its source."""
    at, source = (packet[0] & 0xf) * 4, IPv4Address(packet[12:16])
    if packet[9] == 17:
        return source, read_body(packet[at + OVERLAY_HEADERS - 20:])
    if len(packet) < at + _SYN_HEADER:
        return source, None
    end = at + (packet[at + 12] >> 4) * 4
    return source, MarkedSyn(source, int.from_bytes(packet[at + 2:at + 4]),
                             _OPTION in packet[at + _SYN_HEADER:end])


def underlay_filter(token: bytes) -> bytes:
    """Return a filter for IP packets on the underlay: the test's overlay packets and SYNs."""
    high, low = struct.unpack("!II", token)
    # A jump skips so many instructions if it holds, and so many if not.
    return _program((
        (_LOAD, 0, 0, _PROTOCOL), (_EQUAL, 0, 15, 0x0800),
        (_LOAD_HALF, 0, 0, 6), (_ANY_BIT, 13, 0, 0x1fff),  # a later fragment
        (_X_IP_HEADER, 0, 0, 0),
        (_LOAD_BYTE, 0, 0, 9), (_EQUAL, 0, 4, 17),
        (_AT_X, 0, 0, 30), (_EQUAL, 0, 8, high), (_AT_X, 0, 0, 34), (_EQUAL, 5, 6, low),
        (_EQUAL, 0, 5, 6),
        (_BYTE_AT_X, 0, 0, 13), (_EQUAL, 0, 3, 0x02), (_AT_X, 0, 0, 4), (_EQUAL, 0, 1, high),
        (_RETURN, 0, 0, _SNAP), (_RETURN, 0, 0, 0)))


def overlay_filter(token: bytes) -> bytes:
    """Return a filter for what comes out of the VXLAN device: the test's packets."""
    high, low = struct.unpack("!II", token)
    return _program((
        (_LOAD, 0, 0, _PROTOCOL), (_EQUAL, 0, 5, ETHERTYPE),
        (_LOAD, 0, 0, 0), (_EQUAL, 0, 3, high), (_LOAD, 0, 0, 4), (_EQUAL, 0, 1, low),
        (_RETURN, 0, 0, 0x40000), (_RETURN, 0, 0, 0)))


def _program(instructions: tuple[tuple[int, int, int, int], ...]) -> bytes:
    return b"".join(_INSTRUCTION.pack(*each) for each in instructions)
