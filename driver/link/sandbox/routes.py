"""Manages slim's routes inside one sandbox: the host path's two, and the overlay's MTU.

rules has the policy routing rules; sandbox enters the namespace.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from driver.link.netlink.names import HOST_PATH_TABLE, ROUTE_PROTOCOL
from driver.link.netlink.sockets import Changes, Route, dump, step
from driver.link.sandbox.rules import FAMILIES
from driver.model import Endpoint, HostAddress
from driver.services.ports import Interface

_TABLE_MAIN: Final = 254
_TABLE_LOCAL: Final = 255
_SCOPE_LINK: Final = 253
_SCOPE_HOST: Final = 254
_TYPE_LOCAL: Final = 2  # RTN_LOCAL
_LOOPBACK: Final = 1  # ifindex of lo in every namespace
_PROTOCOL_KERNEL: Final = 2  # RTPROT_KERNEL
_GET_ROUTE: Final = 26  # RTM_GETROUTE
_REQUEST, _DUMP = 0x1, 0x300  # NLM_F_...
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_ABSENT: Final = (errno.ESRCH, errno.ENOENT, errno.ENODEV)


def read(route: Route, *, v6: bool) -> list[Any]:
    """Return all routes of the namespace, IPv6 ones only if `v6`.  One read serves a visit."""
    families = (socket.AF_INET, socket.AF_INET6) if v6 else (socket.AF_INET,)
    return [found for family in families for found in dump(route, "get_routes", family=family)]


def select(route: Route, table: int, protocol: int, interface: int = 0, *,
           family: int = socket.AF_INET) -> list[Any]:
    """Return one table's routes with this `protocol`; the kernel filters them.

    A container may be a router with 100,000 routes.  interface: ifindex, 0: any.
    """
    request = rtmsg()
    request["family"], request["proto"] = family, protocol
    request["attrs"] = [("RTA_TABLE", table)] + ([("RTA_OIF", interface)] if interface else [])
    with step(f"read the routes of table {table}", ignore=_ABSENT):
        route.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        try:
            return list(dump(route, "nlm_request", msg=request, msg_type=_GET_ROUTE,
                             msg_flags=_REQUEST | _DUMP))
        finally:  # pyroute2's own requests do not pass strict checks
            route.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 0)
    return []  # there is no such table


def missing_of_host_path(route: Route, interface: Interface, underlay: HostAddress) -> str:
    """Name a route of plan_host_path that is missing; "": none."""
    family = FAMILIES[underlay.version]
    if not any(found["type"] == _TYPE_LOCAL and found.get_attr("RTA_DST") == str(underlay)
               for found in select(route, _TABLE_LOCAL, ROUTE_PROTOCOL, family=family)):
        return f"route local {underlay}"
    if not any(found["dst_len"] == 0 and found.get_attr("RTA_OIF") == interface.ifindex
               for found in select(route, HOST_PATH_TABLE, ROUTE_PROTOCOL, family=family)):
        return f"route default dev {interface.name} table {HOST_PATH_TABLE}"
    return ""


def connected(route: Route, interface: Interface) -> list[Any]:
    """Return the routes that the kernel has made for the interface's IPv4 addresses."""
    return select(route, _TABLE_MAIN, _PROTOCOL_KERNEL, interface.ifindex)


def plan_connected_mtu(changes: Changes, present: list[Any], endpoint: Endpoint,
                       interface: Interface, mtu: int) -> None:
    """Give the endpoint's subnets the overlay's MTU (bytes) on this interface.

    The kernel's connected routes keep everything else: protocol, scope, source, metric.
    """
    subnets = [address.network for address in (endpoint.address, endpoint.address6)
               if address is not None]
    for found in present:
        if any(_is_connected(found, subnet, interface) for subnet in subnets):
            _replace_with_mtu(changes, found, interface, mtu)


def plan_host_path(changes: Changes, interface: Interface, underlay: HostAddress,
                   mtu: int = 0) -> None:
    """Route host path connections over `interface`; replaces routes over another interface.

    mtu: bytes, if the underlay's MTU is now smaller than the interface's; 0: it is not.

    Of IPv6, lo may be switched off in a container, so the local route is the interface's; and the
    kernel refuses a preferred source that is no interface's address.
    """
    metrics = {"metrics": {"mtu": mtu}} if mtu else {}
    v4 = underlay.version == 4
    with changes.step(f"local {underlay}") as route:
        route.route("replace", family=FAMILIES[underlay.version], dst=str(underlay),
                    dst_len=underlay.max_prefixlen, table=_TABLE_LOCAL, type=_TYPE_LOCAL,
                    scope=_SCOPE_HOST, oif=_LOOPBACK if v4 else interface.ifindex,
                    proto=ROUTE_PROTOCOL)
    with changes.step(f"host path route over {interface.name}") as route:
        route.route("replace", family=FAMILIES[underlay.version], dst_len=0,
                    table=HOST_PATH_TABLE, oif=interface.ifindex, scope=_SCOPE_LINK,
                    proto=ROUTE_PROTOCOL, **({"prefsrc": str(underlay)} if v4 else {}), **metrics)


def remove_superseded(changes: Changes, present: list[Any], underlay: HostAddress,
                      interface: Interface) -> None:
    """Plan the removal of routes for an earlier underlay address, or over another interface.

    Of IPv6, "replace" leaves a route over another interface where it is.
    """
    for found in present:
        if not _is_ours(found) or found["family"] != FAMILIES[underlay.version]:
            continue
        other = found.get_attr("RTA_OIF") != interface.ifindex and underlay.version == 6
        if other or (found["type"] == _TYPE_LOCAL and found.get_attr("RTA_DST") != str(underlay)):
            _plan_removal(changes, found)


def remove_host_path(route: Route, version: int) -> None:
    """Remove what plan_host_path added for an underlay of this version of IP, whichever it was."""
    changes = Changes(route)
    for found in dump(route, "get_routes", family=FAMILIES[version]):
        if _is_ours(found):
            _plan_removal(changes, found)
    changes.apply()


def _is_ours(found: Any) -> bool:
    return (found["proto"] == ROUTE_PROTOCOL
            and _table(found) in (_TABLE_LOCAL, HOST_PATH_TABLE))


def _table(found: Any) -> int:
    return int(found.get_attr("RTA_TABLE") or found["table"])


def _is_connected(found: Any, subnet: IPv4Network | IPv6Network, interface: Interface) -> bool:
    return (found["dst_len"] == subnet.prefixlen
            and found.get_attr("RTA_DST") == str(subnet.network_address)
            and found.get_attr("RTA_OIF") == interface.ifindex
            and found.get_attr("RTA_GATEWAY") is None
            and _table(found) == _TABLE_MAIN)


def _replace_with_mtu(changes: Changes, found: Any, interface: Interface, mtu: int) -> None:
    metrics = found.get_attr("RTA_METRICS")
    if metrics is not None and metrics.get_attr("RTAX_MTU") == mtu:
        return
    kept = {"prefsrc": found.get_attr("RTA_PREFSRC"), "priority": found.get_attr("RTA_PRIORITY")}
    with changes.step(f"mtu {mtu} on the connected route of {interface.name}") as route:
        route.route("replace", family=found["family"], dst=found.get_attr("RTA_DST"),
                    dst_len=found["dst_len"], table=_TABLE_MAIN, oif=interface.ifindex,
                    proto=found["proto"], scope=found["scope"], type=found["type"],
                    metrics={"mtu": mtu},
                    **{name: value for name, value in kept.items() if value is not None})


def _plan_removal(changes: Changes, found: Any) -> None:
    with changes.step(f"remove a route of table {_table(found)}", ignore=_ABSENT) as route:
        route.route("del", family=found["family"], dst=found.get_attr("RTA_DST"),
                    dst_len=found["dst_len"], table=_table(found), type=found["type"],
                    scope=found["scope"], oif=found.get_attr("RTA_OIF"), proto=found["proto"])
