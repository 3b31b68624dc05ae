"""Defines, checks and compares what dockerd asks for an endpoint and what it is told.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from driver.errors import Conflict, InvalidArgument
from driver.model import Endpoint, EndpointId, HostPath, NetworkId

DST_PREFIX = "eth"  # dockerd appends the lowest free number
IFNAME_MAX = 15  # characters; IFNAMSIZ less the final zero


@dataclass(frozen=True)
class EndpointRequest:
    """The endpoint that dockerd requests; `mac` (six bytes) None: ours to choose."""

    id: EndpointId
    network_id: NetworkId
    address: IPv4Interface | None
    address6: IPv6Interface | None
    mac: bytes | None
    ifname: str = ""  # the user's requested name inside the container
    host_path: HostPath | None = None  # chosen for this endpoint


@dataclass(frozen=True)
class InterfaceNames:
    """Names of the interface on the host and inside the container."""

    src_name: str
    dst_prefix: str
    dst_name: str = ""


def choose_mac(address: IPv4Interface | None, random_bytes: Callable[[int], bytes]) -> bytes:
    """Return six bytes, locally administered and unicast: 02:42 and the address, as Docker does.

    Without an IPv4 address the last four bytes are random.
    """
    tail = address.ip.packed if address is not None else random_bytes(4)
    return bytes((0x02, 0x42)) + tail


def same(known: Endpoint, request: EndpointRequest) -> Endpoint:
    """Return the known endpoint if the repeated request matches it.  Error: Conflict."""
    if (known.network_id, known.address, known.address6) != (
            request.network_id, request.address, request.address6) or (
            request.mac is not None and request.mac != known.mac):
        raise Conflict(f"endpoint {request.id[:12]} exists with other properties")
    return known


def check_ifname(name: str) -> None:
    """Refuse an impossible interface name; "" requests none.  Error: InvalidArgument."""
    if name and (len(name) > IFNAME_MAX or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name)):
        raise InvalidArgument(
            f"interface name {name!r}: want a letter and up to {IFNAME_MAX - 1} more letters, "
            "digits, or one of _ . -")
