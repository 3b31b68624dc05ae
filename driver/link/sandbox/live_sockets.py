"""Lists the IPv4 TCP connections of a sandbox (sock_diag, since Linux 3.3).

IPv4-mapped ones of IPv6 sockets are included.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Any

from pyroute2 import DiagSocket
from pyroute2.netlink import diag

from driver.link.netlink import netns
from driver.link.netlink.sockets import step

# A bit per state.  Excludes listeners and SYNs that nobody has accepted yet.
_STATES = diag.SS_ALL & ~sum(1 << state for state in (
    diag.SS_LISTEN, diag.SS_SYN_RECV, diag.SS_CLOSE))


@dataclass(frozen=True)
class LiveSocket:
    """One connection of a namespace, by its addresses and ports on the wire."""

    local: IPv4Address
    local_port: int
    peer: IPv4Address
    peer_port: int
    cookie: int  # of the socket, 64 bit
    time_wait: bool


def live_sockets(path: str) -> list[LiveSocket]:
    """Return the IPv4 connections of the namespace at `path`, IPv4-mapped ones included.

    Errors: NamespaceAbsent, LinkError.
    """
    return netns.run_in(path, lambda: list(_here()))


def _here() -> Iterator[LiveSocket]:
    with step("list sockets"), DiagSocket() as asking:
        asking.bind()
        for family in (socket.AF_INET, socket.AF_INET6):
            for found in asking.get_sock_stats(family=family, states=_STATES):
                local, peer = _ipv4(found["idiag_src"]), _ipv4(found["idiag_dst"])
                if local is not None and peer is not None:
                    yield LiveSocket(local, int(found["idiag_sport"]), peer,
                                     int(found["idiag_dport"]), int(found["idiag_cookie"]),
                                     found["idiag_state"] == diag.SS_TIME_WAIT)


def _ipv4(text: Any) -> IPv4Address | None:
    address = ip_address(text)
    return address if isinstance(address, IPv4Address) else address.ipv4_mapped

