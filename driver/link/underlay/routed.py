"""Lists the networks that the host has routes to.

Default routes and the host's own addresses are left out.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_network
from typing import Any, Final

from driver.link.netlink.sockets import dump, open_route, step
from driver.services.ports import RoutedNetwork

_TABLE_LOCAL: Final = 255
# Up to this prefix length a route is a default route, also one in two halves (0.0.0.0/1 and
# 128.0.0.0/1, as VPNs use) or for all global addresses (2000::/3): it does not say who has them.
_DEFAULT_UP_TO: Final = {socket.AF_INET: 1, socket.AF_INET6: 3}


def routed_networks() -> Sequence[RoutedNetwork]:
    """Return every network that the host has a route to, in any table.

    Default routes and the host's own addresses are left out.  Error: LinkError.
    """
    with open_route() as route, step("list the host's routes"):
        found = {_network(each) for family in _DEFAULT_UP_TO
                 for each in dump(route, "get_routes", family=family)
                 if each["family"] == family and each["dst_len"] > _DEFAULT_UP_TO[family]
                 and _table(each) != _TABLE_LOCAL}
    networks = [RoutedNetwork(ip_network(subnet), _name(ifindex)) for subnet, ifindex in found]
    return sorted(networks, key=lambda each: (each.subnet.version, int(each.subnet[0]),
                                              each.subnet.prefixlen, each.device))


def _network(found: Any) -> tuple[tuple[str, int], int]:
    paths = found.get_attr("RTA_MULTIPATH")
    ifindex = paths[0]["oif"] if paths else found.get_attr("RTA_OIF") or 0
    return (found.get_attr("RTA_DST"), found["dst_len"]), int(ifindex)


def _table(found: Any) -> int:
    return int(found.get_attr("RTA_TABLE") or found["table"])


def _name(ifindex: int) -> str:
    with suppress(OSError):  # none, or gone since
        return socket.if_indextoname(ifindex)
    return ""
