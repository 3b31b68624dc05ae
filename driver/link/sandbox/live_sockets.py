"""Lists the TCP connections of a sandbox (sock_diag, since Linux 3.3).

IPv4-mapped ones of IPv6 sockets are named by their IPv4 addresses.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any

from pyroute2 import DiagSocket
from pyroute2.netlink import diag

from driver.link.netlink import netns
from driver.link.netlink.sockets import step
from driver.model import HostAddress

# A bit per state.  Excludes listeners and SYNs that nobody has accepted yet.
_STATES = diag.SS_ALL & ~sum(1 << state for state in (
    diag.SS_LISTEN, diag.SS_SYN_RECV, diag.SS_CLOSE))


@dataclass(frozen=True)
class LiveSocket:
    """One connection of a namespace, by its addresses and ports on the wire."""

    local: HostAddress
    local_port: int
    peer: HostAddress
    peer_port: int
    cookie: int  # of the socket, 64 bit
    time_wait: bool


def live_sockets(path: str) -> list[LiveSocket]:
    """Return the connections of the namespace at `path`.  Errors: NamespaceAbsent, LinkError."""
    return netns.run_in(path, lambda: list(_here()))


def _here() -> Iterator[LiveSocket]:
    with step("list sockets"), DiagSocket() as asking:
        asking.bind()
        for family in (socket.AF_INET, socket.AF_INET6):
            for found in asking.get_sock_stats(family=family, states=_STATES):
                yield LiveSocket(
                    _plain(found["idiag_src"]), int(found["idiag_sport"]),
                    _plain(found["idiag_dst"]), int(found["idiag_dport"]),
                    int(found["idiag_cookie"]), found["idiag_state"] == diag.SS_TIME_WAIT)


def _plain(text: Any) -> HostAddress:
    address = ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
