"""Parses the kernel's link notifications, as far as slim needs them.

A host sends a dozen of them for each container that starts, hardly any of them about slim's links,
and pyroute2 takes half a millisecond for each: so they are parsed by hand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
_LINK_TYPES: Final = (RTM_NEWLINK, RTM_DELLINK)
# Native byte order; each part begins at a multiple of four bytes (linux/netlink.h, rtnetlink.h).
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct rtattr: length with itself, type
_TYPE_MASK: Final = 0x3FFF  # NLA_TYPE_MASK
_IFLA_IFNAME: Final = 3
_IFLA_LINK_NETNSID: Final = 37


@dataclass(frozen=True)
class LinkNews:
    """What one notification, or a dump (`of_dump`), says about a link."""

    gone: bool  # RTM_DELLINK
    family: int  # AF_UNSPEC; AF_BRIDGE: it is about the link's place in a bridge
    ifindex: int
    flags: int  # IFF_...
    name: str
    peer_elsewhere: bool  # its other end is in another network namespace

    @classmethod
    def of_dump(cls, link: Any) -> LinkNews:
        """Convert a link from a dump.  link: pyroute2's ifinfmsg."""
        return cls(gone=False, family=int(link["family"]), ifindex=int(link["index"]),
                   flags=int(link["flags"]), name=link.get_attr("IFLA_IFNAME") or "",
                   peer_elsewhere=link.get_attr("IFLA_LINK_NETNSID") is not None)


def split(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and bytes, header included, of each netlink message received."""
    start = 0
    while start + _HEADER.size <= len(raw):
        length, kind, _, _, _ = _HEADER.unpack_from(raw, start)
        if length < _HEADER.size:
            return
        yield kind, raw[start:start + length]
        start += _aligned(length)


def is_link(kind: int) -> bool:
    """Tell whether `read` understands messages of that type."""
    return kind in _LINK_TYPES


def read(message: bytes) -> LinkNews:
    """Parse one message for which `is_link` is true.  Error: struct.error (it is cut off)."""
    _, kind, _, _, _ = _HEADER.unpack_from(message)
    family, _, ifindex, flags, _ = _LINK.unpack_from(message, _HEADER.size)
    name, elsewhere = "", False
    start = _HEADER.size + _LINK.size
    while start + _ATTRIBUTE.size <= len(message):
        length, what = _ATTRIBUTE.unpack_from(message, start)
        if length < _ATTRIBUTE.size:
            break
        if what & _TYPE_MASK == _IFLA_IFNAME:
            text = message[start + _ATTRIBUTE.size:start + length]
            name = text.rstrip(b"\0").decode(errors="replace")
        elif what & _TYPE_MASK == _IFLA_LINK_NETNSID:
            elsewhere = True
        start += _aligned(length)
    return LinkNews(kind == RTM_DELLINK, family, ifindex, flags, name, elsewhere)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
