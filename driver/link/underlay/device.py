"""Finds the underlay (device, address, MTU), and watches it for changes.

Its device must carry Ethernet frames.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Final

from driver.errors import LinkError
from driver.link.netlink.monitor import Monitor
from driver.link.netlink.news import LinkNews
from driver.link.netlink.sockets import Route, dump, open_route, step
from driver.link.underlay import ipv6
from driver.model import HostAddress

# RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE; the same of IPv6
_GROUPS: Final = 0x1 | 0x10 | 0x40
_GROUPS6: Final = 0x1 | 0x100 | 0x400
_BY_IPV6: Final = "/ipv6"  # behind a device's name: its IPv6 address is wanted
_TENTATIVE_S: Final = 5.0  # duplicate address detection takes one or two seconds
_AGAIN_S: Final = 0.1
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_TYPE_UNICAST: Final = 1  # RTN_UNICAST
_TABLE_MAIN: Final = 254
_IFA_F_SECONDARY: Final = 0x1
_SCOPE_UNIVERSE: Final = 0
_ETHERNET: Final = 1  # ARPHRD_ETHER


@dataclass(frozen=True)
class Underlay:
    """This host's device and address in the underlay."""

    name: str
    ifindex: int
    address: HostAddress  # U
    mtu: int  # bytes
    mac: str = ""

    @property
    def address4(self) -> IPv4Address | None:
        """U, if it is an IPv4 address; None: it is an IPv6 address."""
        return self.address if isinstance(self.address, IPv4Address) else None


def find_underlay(wanted: str = "") -> Underlay:
    """Find it by `wanted`: an address, a device, or "" for the default route's device.

    The device's address is its IPv4 address, or with /ipv6 behind it (also behind "") its IPv6
    address.  Waits until the kernel knows whether another machine has an IPv6 address, too.
    Error: LinkError, which says what is missing and which setting helps.
    """
    end_s = time.monotonic() + _TENTATIVE_S
    while True:
        try:
            with open_route() as route, step("look for the underlay"):
                return _find(route, wanted)
        except ipv6.TentativeError:
            if time.monotonic() >= end_s:
                raise
        time.sleep(_AGAIN_S)


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
        over_ipv6 = _is_ipv6(wanted) or (current is not None and current.address.version == 6)
        self._monitor = Monitor("underlay", _GROUPS6 if over_ipv6 else _GROUPS, self)

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
            try:
                kept = _find(route, str(self._current.address))
                if kept.ifindex == self._current.ifindex:
                    return kept
            except ipv6.TentativeError:  # its cable was out for a moment
                return self._known or self._current
            except LinkError:
                pass
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
            return (self._known is None or message.name == self._wanted.removesuffix(_BY_IPV6)
                    or message.ifindex in {each.ifindex for each in known if each is not None})
        # A router's host may change thousands of routes a minute; only default routes count.
        kind = message["header"]["type"]
        if kind in (_RTM_NEWADDR, _RTM_DELADDR):  # each interface gets a link-local one
            return bool(message["scope"] == _SCOPE_UNIVERSE)
        return kind not in (_RTM_NEWROUTE, _RTM_DELROUTE) or message["dst_len"] == 0


def _find(route: Route, wanted: str) -> Underlay:
    return _find6(route, wanted) if _is_ipv6(wanted) else _find4(route, wanted)


def _find6(route: Route, wanted: str) -> Underlay:
    # A kernel without IPv6 lists what it has.
    addresses = [found for found in dump(route, "get_addr", family=socket.AF_INET6)
                 if found["family"] == socket.AF_INET6 and found["scope"] == _SCOPE_UNIVERSE]
    if not wanted.endswith(_BY_IPV6):
        address = IPv6Address(wanted)
        ifindex = ipv6.named(addresses, address)
        return _underlay(_present(route, ifindex), ifindex, address)
    name = wanted.removesuffix(_BY_IPV6)
    ifindex = int(_named(route, name)["index"]) if name else ipv6.default_interface(
        found for found in dump(route, "get_routes", family=socket.AF_INET6)
        if found["family"] == socket.AF_INET6 and found["dst_len"] == 0
        and _table(found) == _TABLE_MAIN and found["type"] == _TYPE_UNICAST
        and _interface(found) is not None)
    link = _present(route, ifindex)
    name = str(link.get_attr("IFLA_IFNAME"))
    return _underlay(link, ifindex, ipv6.only_one(addresses, ifindex, name))


def _find4(route: Route, wanted: str) -> Underlay:
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
        ifindex = _named(route, wanted)["index"]
    link = _present(route, ifindex)
    address = preferred or _primary_address(addresses, ifindex)
    if address is None:
        name = link.get_attr("IFLA_IFNAME")
        raise LinkError(f"underlay: interface {name} has no IPv4 address (its IPv6 address: "
                        f"--underlay {name}{_BY_IPV6})")
    return _underlay(link, ifindex, IPv4Address(address))


def _named(route: Route, name: str) -> Any:
    found = _link(route, ifname=name)
    if found is None:
        raise LinkError(f"underlay: there is no interface {name}")
    return found


def _present(route: Route, ifindex: int) -> Any:
    found = _link(route, index=ifindex)
    if found is None:
        raise LinkError(f"underlay: interface {ifindex} has gone")
    return found


def _underlay(link: Any, ifindex: int, address: HostAddress) -> Underlay:
    name = str(link.get_attr("IFLA_IFNAME"))
    if link["ifi_type"] != _ETHERNET:
        raise LinkError(f"underlay: {name} carries no Ethernet frames (a tunnel?): put a VXLAN "
                        "device on top of it and name that with --underlay (docs/security.md)")
    return Underlay(name, int(ifindex), address, int(link.get_attr("IFLA_MTU")),
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
                        f"address with --underlay ({_BY_IPV6}: the IPv6 default route's device)")
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


def _is_ipv6(wanted: str) -> bool:
    return ":" in wanted or wanted.endswith(_BY_IPV6)


def _is_address(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True
