"""Finds the underlay (device, address, MTU), and watches it for changes.

Its device must carry Ethernet frames.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final

from driver.errors import LinkError
from driver.link.netlink.monitor import Monitor
from driver.link.netlink.news import LinkNews
from driver.link.netlink.sockets import Route, dump, open_route, step

# RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE
_GROUPS: Final = 0x1 | 0x10 | 0x40
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_TABLE_MAIN: Final = 254
_IFA_F_SECONDARY: Final = 0x1
_SCOPE_UNIVERSE: Final = 0
_ETHERNET: Final = 1  # ARPHRD_ETHER


@dataclass(frozen=True)
class Underlay:
    """This host's device and address in the underlay."""

    name: str
    ifindex: int
    address: IPv4Address  # U
    mtu: int  # bytes
    mac: str = ""


def find_underlay(wanted: str = "") -> Underlay:
    """Find it by `wanted`: a device, an IPv4 address, or "" for the default route's device.

    Error: LinkError, which says what is missing and which setting helps.
    """
    with open_route() as route, step("look for the underlay"):
        return _find(route, wanted)


class UnderlayWatcher:
    """Reports when the underlay changes or disappears."""

    def __init__(self, wanted: str, on_change: Callable[[Underlay | None], None],
                 current: Underlay | None = None) -> None:
        """on_change: called from the watcher's thread, first with the underlay at the start.

        None: there is no underlay at the moment.  current: the one in use; it stays the
        underlay as long as its device has its address, whatever happens to default routes.
        """
        self._wanted = wanted
        self._on_change = on_change
        self._current = current
        self._known: Underlay | None = None
        self._told = False
        self._monitor = Monitor("underlay", _GROUPS, self)

    def start(self) -> None:
        """Start.  Error: LinkError."""
        self._monitor.start()

    def stop(self) -> None:
        """Stop; on_change is not called afterwards."""
        self._monitor.stop()

    def resync(self, route: Route) -> None:
        """See monitor.Listener."""
        found = self._look(route)
        if not self._told or found != self._known:
            self._on_change(found)
            # Only now: if on_change raised, the next look reports it again (see monitor.Monitor).
            self._told, self._known = True, found

    def _look(self, route: Route) -> Underlay | None:
        if self._current is not None:
            with suppress(LinkError):
                kept = _find(route, str(self._current.address))
                if kept.ifindex == self._current.ifindex:
                    return kept
        try:
            return _find(route, self._wanted)
        except LinkError:
            return None

    def changed(self, messages: Sequence[Any]) -> None:
        """See monitor.Listener.  Whatever changed, the whole state is read again."""
        if any(self._matters(message) for message in messages):
            with open_route() as route:
                self.resync(route)

    def _matters(self, message: Any) -> bool:
        if isinstance(message, LinkNews):
            # A dozen for each container that starts or stops.  Before another link could become the
            # underlay, it gets an address or a default route.
            known = (self._known, self._current)
            return (self._known is None or message.name == self._wanted
                    or message.ifindex in {each.ifindex for each in known if each is not None})
        # A router's host may change thousands of routes a minute; only default routes count.
        is_route = message["header"]["type"] in (_RTM_NEWROUTE, _RTM_DELROUTE)
        return not is_route or message["dst_len"] == 0


def _find(route: Route, wanted: str) -> Underlay:
    addresses = [found for found in dump(route, "get_addr", family=socket.AF_INET)
                 if found["scope"] == _SCOPE_UNIVERSE]
    preferred: str | None = None
    if not wanted:
        ifindex, preferred = _default_route(route)
    elif _is_address(wanted):
        preferred = wanted
        holders = [found["index"] for found in addresses if found.get_attr("IFA_LOCAL") == wanted]
        if not holders:
            raise LinkError(f"underlay: no interface of this host has the address {wanted}")
        ifindex = holders[0]
    else:
        named = _link(route, ifname=wanted)
        if named is None:
            raise LinkError(f"underlay: there is no interface {wanted}")
        ifindex = named["index"]
    link = _link(route, index=ifindex)
    if link is None:
        raise LinkError(f"underlay: interface {ifindex} has gone")
    name = str(link.get_attr("IFLA_IFNAME"))
    if link["ifi_type"] != _ETHERNET:
        raise LinkError(f"underlay: {name} carries no Ethernet frames (a tunnel?): put a VXLAN "
                        "device on top of it and name that with --underlay (docs/security.md)")
    address = preferred or _primary_address(addresses, ifindex)
    if address is None:
        raise LinkError(f"underlay: interface {name} has no IPv4 address")
    return Underlay(name, int(ifindex), IPv4Address(address), int(link.get_attr("IFLA_MTU")),
                    str(link.get_attr("IFLA_ADDRESS")))


def _link(route: Route, **which: object) -> Any | None:
    """Get one interface, never all: a host has thousands, and each change asks again."""
    with step("look for the underlay", ignore=(errno.ENODEV,)):
        found = route.link("get", **which)
        return found[0] if found else None
    return None


def _default_route(route: Route) -> tuple[int, str | None]:
    """Return interface and preferred source of the default route that the kernel would take."""
    defaults = [found for found in dump(route, "get_routes", family=socket.AF_INET)
                if found["dst_len"] == 0 and _table(found) == _TABLE_MAIN
                and _interface(found) is not None]
    if not defaults:
        raise LinkError("underlay: this host has no IPv4 default route; name a device or an "
                        "address with --underlay")
    best = min(defaults, key=lambda found: found.get_attr("RTA_PRIORITY") or 0)
    return int(_interface(best) or 0), best.get_attr("RTA_PREFSRC")


def _interface(found: Any) -> int | None:
    paths = found.get_attr("RTA_MULTIPATH")
    ifindex = paths[0]["oif"] if paths else found.get_attr("RTA_OIF")
    return None if ifindex is None else int(ifindex)


def _primary_address(addresses: Sequence[Any], ifindex: int) -> str | None:
    own = [found for found in addresses if found["index"] == ifindex]
    own.sort(key=lambda found: bool(found["flags"] & _IFA_F_SECONDARY))  # stable
    return own[0].get_attr("IFA_LOCAL") if own else None


def _table(found: Any) -> int:
    return int(found.get_attr("RTA_TABLE") or found["table"])


def _is_address(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True
