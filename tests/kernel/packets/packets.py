"""Builds the packets that go into the programs, and those that must come out of them.

Bytes only, by the documents' own layouts; nothing here knows the programs or their maps.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

IPV4, IPV6, ARP, VLAN = 0x0800, 0x86DD, 0x0806, 0x8100
ICMP, TCP, UDP, GRE, ROUTING6, FRAGMENT6, ICMP6, OPTIONS6 = 1, 6, 17, 47, 43, 44, 58, 60
MORE_FRAGMENTS, DONT_FRAGMENT = 0x2000, 0x4000

BROADCAST_MAC = b"\xff" * 6
CONTAINER_MAC = b"\x02\0\0\0\0\x02"  # who sends
ANY_MAC = b"\x02\0\0\0\0\xee"  # whom it is for, where that says nothing

_FLAGS = "FSRPAUEC"  # from the lowest bit on
_EXPERIMENT = 0x5e1d


def frame(payload: bytes, kind: int = IPV4, *, to: bytes = ANY_MAC,
          source: bytes = CONTAINER_MAC) -> bytes:
    """Make an Ethernet frame."""
    return to + source + struct.pack("!H", kind) + payload


def ip4(source: str, destination: str, payload: bytes = b"", protocol: int = UDP, *,
        fragment: int = 0, ttl: int = 64, options: bytes = b"", first: int = 0, length: int = 0
        ) -> bytes:
    """Make an IPv4 packet.

    fragment: the flags and the offset; first and length: a first byte, a total length that lie.
    """
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s", first or 0x40 | words, 0, length or 4 * words + len(payload), 0, fragment,
        ttl, protocol, 0, IPv4Address(source).packed, IPv4Address(destination).packed) + options
    return head[:10] + checksum(head) + head[12:] + payload


def ip6(source: str, destination: str, payload: bytes = b"", following: int = UDP, *,
        hops: int = 64) -> bytes:
    """Make an IPv6 packet."""
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), following, hops,
                       IPv6Address(source).packed, IPv6Address(destination).packed) + payload


def udp(data: bytes = b"data", sport: int = 7, dport: int = 5000) -> bytes:
    """Make a datagram without a checksum."""
    return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def vxlan(inner: bytes, vni: int = 1, *, flags: int = 0x08000000, port: int = 14789,
          check: int = 0, reserved: int = 0) -> bytes:
    """Make a datagram with a frame inside.  check: of the outer UDP header."""
    body = struct.pack("!II", flags, vni << 8 | reserved) + inner
    return struct.pack("!HHHH", 40000, port, 8 + len(body), check) + body


def tcp(sport: int, dport: int, flags: str = "S", data: bytes = b"", options: bytes = b"", *,
        words: int = 0, seq: int = 1000, ack: int = 0, window: int = 0) -> bytes:
    """Make a segment without a checksum.

    flags: letters; words: a header's length that lies, 16 for 0.
    """
    bits = sum(1 << _FLAGS.index(flag) for flag in flags)
    words = (words or 5 + len(options) // 4) % 16
    return struct.pack("!HHIIBBHHH", sport, dport, seq, ack, words << 4, bits, window, 0,
                       0) + options + data


def icmp(kind: int, code: int = 0, rest: int = 0, data: bytes = b"") -> bytes:
    """Make a message of ICMP for IPv4."""
    head = struct.pack("!BBHI", kind, code, 0, rest)
    return head[:2] + checksum(head + data) + head[4:] + data


def icmp6(kind: int, code: int = 0, data: bytes = b"") -> bytes:
    """Make a message of ICMPv6 without a checksum."""
    return struct.pack("!BBHI", kind, code, 0, 0) + data


def fragment6(following: int, payload: bytes, *, offset: int = 0) -> bytes:
    """Make a fragment header of IPv6 and what follows it; offset: in units of 8 bytes."""
    return struct.pack("!BBHI", following, 0, offset << 3 | 1, 7) + payload


def option(virtual_port: int, caller_port: int, *, kind: int = 254, length: int = 8,
           experiment: int = _EXPERIMENT) -> bytes:
    """Make the host path's TCP option (docs/wire.md)."""
    return struct.pack("!BBHHH", kind, length, experiment, virtual_port, caller_port)


def datagram(source: str, destination: str, *, to: bytes = ANY_MAC, fragment: int = 0,
             ttl: int = 64, options: bytes = b"") -> bytes:
    """Make a whole frame with UDP in it, of either family."""
    if ":" in source:
        return frame(ip6(source, destination, udp()), IPV6, to=to)
    return frame(ip4(source, destination, udp(), fragment=fragment, ttl=ttl, options=options),
                 to=to)


def addressed(made: bytes, to: bytes) -> bytes:
    """Return the same frame for another MAC."""
    return to + made[6:]


def checksum(data: bytes) -> bytes:
    """Return the checksum of RFC 1071."""
    total = sum(word for word, in struct.iter_unpack("!H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return struct.pack("!H", ~total & 0xffff)


def _turned(asked: bytes, answer: bytes) -> bytes:
    return asked[6:12] + asked[:6] + asked[12:14] + answer


def unreachable(asked: bytes, code: int) -> bytes:
    """Return the error that an IPv4 frame is turned into (RFC 792)."""
    source, destination = (socket.inet_ntoa(asked[at:at + 4]) for at in (26, 30))
    return _turned(asked, ip4(destination, source, icmp(3, code, data=asked[14:42]), ICMP))


def unreachable6(asked: bytes, quoted: int = 48) -> bytes:
    """Return the error that an IPv6 frame is turned into (RFC 4443).

    quoted: so many bytes of its packet.
    """
    source, destination = (socket.inet_ntop(socket.AF_INET6, asked[at:at + 16])
                           for at in (22, 38))
    said = icmp6(1, 3, asked[14:14 + quoted])
    pseudo = asked[38:54] + asked[22:38] + struct.pack("!II", len(said), ICMP6)
    said = said[:2] + checksum(pseudo + said) + said[4:]
    return _turned(asked, ip6(destination, source, said, ICMP6))


def proof(asked: bytes) -> bytes:
    """Return the RST that a probe's SYN is turned into (docs/wire.md); its MACs stay."""
    sport, dport, seq = struct.unpack("!HHI", asked[34:42])
    answer = tcp(dport, sport, "RA", seq=0, ack=(seq + 1) % 2**32, window=_EXPERIMENT)
    pseudo = asked[30:34] + asked[26:30] + struct.pack("!HH", TCP, len(answer))
    answer = answer[:16] + checksum(pseudo + answer) + answer[18:]
    source, destination = (socket.inet_ntoa(asked[at:at + 4]) for at in (30, 26))
    return asked[:14] + ip4(source, destination, answer, TCP, fragment=DONT_FRAGMENT)
