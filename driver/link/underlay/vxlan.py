"""Manages the host's only VXLAN device, the overlay path's tunnel.

Our programs set VNI and destination of every packet (collect-metadata mode), and rewrite the inner
Ethernet destination on arrival.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from driver.errors import LinkError
from driver.link.netlink.names import VXLAN_NAME
from driver.link.netlink.sockets import (
    Changes,
    Route,
    kind_of,
    open_route,
    plan_no_own_addresses,
    step,
)
from driver.link.pairs.owner import device_owner
from driver.model import HostId

_IFF_UP: Final = 0x1
# Ethernet 14 + VXLAN 8 + UDP 8 + IPv4 20: what the tunnel adds to a packet.  IPv6 has 40.
VXLAN_OVERHEAD: Final = 50
VXLAN_OVERHEAD6: Final = 70


def overlay_mtu(underlay_mtu: int, *, over_ipv6: bool = False) -> int:
    """Return the largest packet (bytes) that the overlay carries unfragmented, e.g. 1500 - 50."""
    return underlay_mtu - (VXLAN_OVERHEAD6 if over_ipv6 else VXLAN_OVERHEAD)


def create_vxlan(port: int, mtu: int, ifindex: int = 0, *, alias: str = "") -> int:
    """Create the device, up and without addresses; return its ifindex.  Idempotent.

    port: UDP, host order.  mtu: bytes, see overlay_mtu.  A device of that name with another
    port or mode is recreated.  ifindex: an earlier device's, which a new one gets; 0: any.
    alias: the owner, see owner.device_alias; another host's device is left alone.
    Error: LinkError, for example if the port is in use.
    """
    with open_route() as route:
        found = _find(route)
        if found is not None:
            _refuse_others(found, alias)
        if found is not None and not _fits(found, port):
            _delete(route)
            found = None
        if found is None:
            with step(f"make {VXLAN_NAME}"):
                route.link("add", ifname=VXLAN_NAME, kind="vxlan", mtu=mtu, vxlan_id=0,
                           vxlan_collect_metadata=1, vxlan_learning=0, vxlan_port=port,
                           **({"index": ifindex} if ifindex else {}))
            try:
                return _configure(route, port, mtu, alias)
            except BaseException:
                _delete(route)
                raise
        return _configure(route, port, mtu, alias)


def delete_vxlan() -> None:
    """Remove the device.  Does nothing if it is absent."""
    with open_route() as route:
        _delete(route)


def vxlan_owner() -> tuple[HostId | None, str]:
    """Return the device's owner and that host's pin folder; None, "": no device, or not marked."""
    with open_route() as route:
        found = _find(route)
        return device_owner(None if found is None else found.get_attr("IFLA_IFALIAS"))


def _refuse_others(found: Any, alias: str) -> None:
    theirs, ours = device_owner(found.get_attr("IFLA_IFALIAS"))[0], device_owner(alias)[0]
    if theirs is not None and ours is not None and theirs != ours:
        raise LinkError(f"interface {VXLAN_NAME} belongs to host id {theirs}, this driver's is "
                        f"{ours}: another driver has made it")


def _configure(route: Route, port: int, mtu: int, alias: str) -> int:
    found = _find(route)
    if found is None:
        raise LinkError(f"{VXLAN_NAME} vanished while it was made")
    changes = Changes(route)
    plan_no_own_addresses(changes, VXLAN_NAME)
    with changes.step(f"mtu {mtu} on {VXLAN_NAME}") as planned:
        planned.link("set", ifname=VXLAN_NAME, mtu=mtu, **({"ifalias": alias} if alias else {}))
    # The kernel opens the UDP port when the device comes up.
    with changes.step(f"bring {VXLAN_NAME} up (UDP port {port}; in use? choose another "
                      "--vxlan-port)") as planned:
        planned.link("set", ifname=VXLAN_NAME, flags=_IFF_UP, change=_IFF_UP)
    changes.apply()
    return int(found["index"])


def _fits(link: Any, port: int) -> bool:
    if kind_of(link) != "vxlan":
        raise LinkError(f"interface {VXLAN_NAME} exists and is no VXLAN device: remove it")
    data = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    return bool(data.get_attr("IFLA_VXLAN_COLLECT_METADATA")
                and not data.get_attr("IFLA_VXLAN_LEARNING")
                and data.get_attr("IFLA_VXLAN_PORT") == port)


def _find(route: Route) -> Any | None:
    with step(f"look for {VXLAN_NAME}", ignore=(errno.ENODEV,)):
        found = route.link("get", ifname=VXLAN_NAME)
        return found[0] if found else None
    return None


def _delete(route: Route) -> None:
    with step(f"remove {VXLAN_NAME}", ignore=(errno.ENODEV,)):
        route.link("del", ifname=VXLAN_NAME)
