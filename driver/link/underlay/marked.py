"""Packs and recognizes the packets of a test: marked with its token, and like containers' packets.

An overlay packet is VXLAN with VNI 0, which no network has, around a frame of a local experimental
kind (IEEE 802, 0x88b5), which no container gets.  A SYN is one of the host path whose sequence
number is the token's first four bytes.  Outside is IPv4 or IPv6, as the underlay is.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from driver.model import HostAddress

ETHERTYPE: Final = 0x88b5
_VXLAN_AND_FRAME: Final = bytes.fromhex(
    "08000000 00000000"  # flags: there is a VNI; VNI 0
    "0273 6c69 6d74 0273 6c69 6d73 88b5".replace(" ", ""))
# Token, whether it is whole, whether the sender's U that follows is IPv6, bytes.
_BODY: Final = struct.Struct("!8s??H")
_IP: Final = {4: 20, 6: 40}  # bytes of the header, without options
_UDP: Final = 8
_OPTION: Final = bytes((254, 8, 0x5e, 0x1d))
_SYN_HEADER: Final = 20

# Classic BPF (linux/filter.h): loads, jumps and returns.  `_AT_X`: behind the IP header.
_LOAD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_AT_X, _BYTE_AT_X, _X_IP_HEADER = 0x40, 0x50, 0xb1
_EQUAL, _ANY_BIT, _RETURN = 0x15, 0x45, 0x06
_PROTOCOL: Final = 0xfffff000  # SKF_AD_OFF + SKF_AD_PROTOCOL: the Ethernet type
_INSTRUCTION: Final = struct.Struct("=HBBI")
_SNAP: Final = 256  # bytes of a packet that are looked at on the underlay
_ALL: Final = 0x40000


@dataclass(frozen=True)
class Marked:
    """An overlay packet of a test, as its receiver sees it."""

    sender: HostAddress  # U, as the sender knows it
    size: int  # bytes, of the packet in the overlay
    whole: bool  # sent with "don't fragment", for the path's MTU
    intact: bool  # each byte is as it was sent; of a packet that was cut off: unknown


@dataclass(frozen=True)
class MarkedSyn:
    """A SYN of a test."""

    sender: HostAddress
    port: int
    has_option: bool


def headers(version: int) -> int:
    """Return how many bytes are around a packet in the overlay: IP of that version and VXLAN."""
    return _IP[version] + _UDP + len(_VXLAN_AND_FRAME)


def body(token: bytes, sender: HostAddress, size: int, *, whole: bool) -> bytes:
    """Return a packet in the overlay: `size` bytes, of which the sender's address is a part."""
    head = _BODY.pack(token, whole, sender.version == 6, size) + sender.packed
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
    token, whole, is_ipv6, size = _BODY.unpack_from(inner)
    end = _BODY.size + (16 if is_ipv6 else 4)
    if len(inner) < end:
        return None
    kind = IPv6Address if is_ipv6 else IPv4Address
    found = kind(inner[_BODY.size:end])
    # Whatever its beginning says: only what would have been sent is intact.
    intact = size == len(inner) and size >= end and inner == body(token, found, size, whole=whole)
    return Marked(found, size, whole, intact)


def read_packet(packet: bytes) -> tuple[HostAddress, Marked | MarkedSyn | None]:
    """Read an IP packet that the underlay's filter let pass, or its beginning; with its source."""
    source: HostAddress
    if packet[0] >> 4 == 4:
        at, protocol, source = (packet[0] & 0xf) * 4, packet[9], IPv4Address(packet[12:16])
    else:
        at, protocol, source = _IP[6], packet[6], IPv6Address(packet[8:24])
    if protocol == 17:
        return source, read_body(packet[at + _UDP + len(_VXLAN_AND_FRAME):])
    if len(packet) < at + _SYN_HEADER:
        return source, None
    end = at + (packet[at + 12] >> 4) * 4
    return source, MarkedSyn(source, int.from_bytes(packet[at + 2:at + 4]),
                             _OPTION in packet[at + _SYN_HEADER:end])


def underlay_filter(token: bytes, version: int) -> bytes:
    """Return a filter for IP packets on the underlay: the test's overlay packets and SYNs."""
    high, low = struct.unpack("!II", token)
    # A jump skips so many instructions if it holds, and so many if not.
    if version == 6:  # nobody puts extension headers before these
        return _program((
            (_LOAD, 0, 0, _PROTOCOL), (_EQUAL, 0, 12, 0x86dd),
            (_LOAD_BYTE, 0, 0, 6), (_EQUAL, 0, 4, 17),
            (_LOAD, 0, 0, 70), (_EQUAL, 0, 8, high), (_LOAD, 0, 0, 74), (_EQUAL, 5, 6, low),
            (_EQUAL, 0, 5, 6),
            (_LOAD_BYTE, 0, 0, 53), (_EQUAL, 0, 3, 0x02), (_LOAD, 0, 0, 44), (_EQUAL, 0, 1, high),
            # To the last byte: whoever checks UDP's checksum drops what was changed.
            (_RETURN, 0, 0, _ALL), (_RETURN, 0, 0, 0)))
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
        (_RETURN, 0, 0, _ALL), (_RETURN, 0, 0, 0)))


def _program(instructions: tuple[tuple[int, int, int, int], ...]) -> bytes:
    return b"".join(_INSTRUCTION.pack(*each) for each in instructions)
