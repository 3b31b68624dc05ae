"""Owns the veth pairs of this host's endpoints (services.ports.Links).

It must not know containers' namespaces: once dockerd has moved an end, that is sandbox.
"""

from __future__ import annotations

import errno
from typing import Any

from driver.errors import LinkError
from driver.link.names import container_name, container_name_of, host_name, is_host_name
from driver.link.netlink import (
    Route,
    dump,
    kind_of,
    open_route,
    refuse_own_addresses,
    step,
)
from driver.model import EndpointId
from driver.services.ports import Veth

_IFF_UP = 0x1
_IFF_NOARP = 0x80


class Veths:
    """Makes, finds and removes the pairs.  Stateless; safe in any thread."""

    def create_veth(self, endpoint_id: EndpointId, mac: bytes, mtu: int) -> Veth:
        """See ports.Links.  The pair is one kernel request; others complete it."""
        name = host_name(endpoint_id)
        with open_route() as route:
            existing = _find(route, name)
            if existing is not None:
                return _adopt(route, existing, endpoint_id, mac, mtu)
            with step(f"make veth pair {name}"):
                # The container's end stays down (dockerd brings it up, which is how we
                # learn that it is ready).  NOARP outlives the move: every neighbour of a
                # container is behind our programs, none answers ARP or ND.
                route.link("add", kind="veth", ifname=name, mtu=mtu,
                           peer={"ifname": container_name(endpoint_id), "mtu": mtu,
                                 "address": _mac_text(mac)})
            try:
                created = _find(route, name)
                if created is None:
                    raise LinkError(f"veth pair {name}: vanished while it was made")
                _configure(route, created, endpoint_id, mac, mtu)
            except BaseException:
                _delete(route, name)
                raise
            return _veth(created)

    def delete_veth(self, endpoint_id: EndpointId) -> None:
        """See ports.Links.  The kernel removes both ends together, in whatever namespace."""
        with open_route() as route:
            _delete(route, host_name(endpoint_id))

    def delete_veth_named(self, host_name: str) -> None:
        """See ports.Links."""
        with open_route() as route:
            _delete(route, host_name)

    def get_veth(self, endpoint_id: EndpointId) -> Veth | None:
        """See ports.Links."""
        with open_route() as route:
            found = _find(route, host_name(endpoint_id))
            return None if found is None else _veth(found)

    def list_veths(self) -> dict[str, Veth]:
        """See ports.Links.  Recognised by kind and form of name."""
        with open_route() as route:
            found = [_veth(link) for link in dump(route, "get_links")
                     if is_host_name(link.get_attr("IFLA_IFNAME")) and kind_of(link) == "veth"]
        return {veth.host_name: veth for veth in found}

    def veth_name(self, endpoint_id: EndpointId) -> str:
        """See ports.Links."""
        return host_name(endpoint_id)


def _adopt(route: Route, link: Any, endpoint_id: EndpointId, mac: bytes, mtu: int) -> Veth:
    name = host_name(endpoint_id)
    if kind_of(link) != "veth":
        raise LinkError(f"interface {name} exists and is no veth pair: remove it")
    owner = link.get_attr("IFLA_IFALIAS")
    if owner is not None and owner != endpoint_id:
        raise LinkError(f"interface {name} belongs to endpoint {owner}")
    _configure(route, link, endpoint_id, mac, mtu)
    return _veth(link)


def _configure(route: Route, link: Any, endpoint_id: EndpointId, mac: bytes, mtu: int) -> None:
    name = host_name(endpoint_id)
    if link.get_attr("IFLA_LINK_NETNSID") is None:
        with step(f"configure {container_name(endpoint_id)}"):
            route.link("set", index=link.get_attr("IFLA_LINK"), address=_mac_text(mac), mtu=mtu,
                       flags=_IFF_NOARP, change=_IFF_NOARP)
    refuse_own_addresses(route, link["index"])
    with step(f"configure {name}"):  # the alias says whose it is
        route.link("set", index=link["index"], ifalias=endpoint_id, mtu=mtu,
                   flags=_IFF_UP, change=_IFF_UP)


def _find(route: Route, name: str) -> Any | None:
    with step(f"look for {name}", ignore=(errno.ENODEV,)):
        found = route.link("get", ifname=name)
        return found[0] if found else None
    return None


def _delete(route: Route, name: str) -> None:
    with step(f"remove veth pair {name}", ignore=(errno.ENODEV,)):
        route.link("del", ifname=name)


def _veth(link: Any) -> Veth:
    name = str(link.get_attr("IFLA_IFNAME"))
    return Veth(host_name=name, host_ifindex=int(link["index"]),
                container_name=container_name_of(name))


def _mac_text(mac: bytes) -> str:
    return mac.hex(":")
