"""Manages the pairs of interfaces of this host's endpoints, veth or netkit (services.ports.Links).

Once dockerd has moved an end into a container's namespace, that end is sandbox.py's.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from driver.errors import LinkError
from driver.link.netlink.ifindex import find_ifindex
from driver.link.netlink.names import (
    PROBE_NAME,
    PROBE_PEER,
    container_name,
    container_name_of,
    host_name,
    is_host_name,
)
from driver.link.netlink.sockets import (
    Changes,
    Route,
    dump,
    kind_of,
    open_route,
    plan_no_own_addresses,
    step,
)
from driver.link.pairs import netkit
from driver.link.pairs.owner import pair_alias, pair_owner
from driver.model import EndpointId, HostId
from driver.services.ports import Veth

_IFF_UP = 0x1
_IFF_NOARP = 0x80

AUTO: Final = "auto"  # netkit where the kernel has it
VETH: Final = "veth"


class Veths:
    """Creates, finds and removes pairs of either kind.  Thread-safe."""

    def __init__(self, kind: str = AUTO, owner: HostId | None = None) -> None:
        """kind: of new pairs, one of PAIR_KINDS.  owner: this host; others' pairs are ignored."""
        self._kind = kind
        self._owner = owner

    def create_veth(self, endpoint_id: EndpointId, mac: bytes, mtu: int) -> Veth:
        """See ports.Links.  One kernel request creates the pair; a batch of others completes it."""
        name = host_name(endpoint_id)
        with open_route() as route:
            try:
                self._add(route, name, container_name(endpoint_id), _mac_text(mac), mtu)
            except LinkError as error:
                existing = _find(route, name) if _is(error, errno.EEXIST) else None
                if existing is None:
                    raise
                return self._adopt(route, existing, endpoint_id, mac, mtu)
            try:
                self._configure(route, endpoint_id, mac, mtu, container_end=True)
                ifindex = find_ifindex(name)
                if ifindex is None:
                    raise LinkError(f"pair {name}: vanished while it was made")
            except BaseException:
                _delete(route, name)
                raise
            return Veth(name, ifindex, container_name(endpoint_id))

    def _add(self, route: Route, name: str, peer: str, mac: str, mtu: int) -> None:
        # The container's end stays down: dockerd brings it up, which tells us that it is ready.
        kind = self._kind  # another thread may find out meanwhile that there is no netkit
        if kind != VETH:
            try:
                with step(f"make netkit pair {name}"):
                    netkit.add(route, name, peer, mac, mtu)
                return
            except LinkError as error:
                if not _is(error, errno.EOPNOTSUPP):
                    raise
                if kind != AUTO:
                    raise LinkError("this kernel has no netkit (Linux 6.7, CONFIG_NETKIT): "
                                    "--pair-kind auto takes veth then") from error
                self._kind = VETH  # this kernel has no netkit
        with step(f"make veth pair {name}"):
            route.link("add", kind=VETH, ifname=name, mtu=mtu,
                       peer={"ifname": peer, "mtu": mtu, "address": mac})

    def delete_veth(self, endpoint_id: EndpointId) -> None:
        """See ports.Links.  The kernel removes both ends together, in any namespaces."""
        with open_route() as route:
            _delete(route, host_name(endpoint_id))

    def delete_veth_named(self, host_name: str) -> None:
        """See ports.Links."""
        with open_route() as route:
            _delete(route, host_name)

    def get_veth(self, endpoint_id: EndpointId) -> Veth | None:
        """See ports.Links."""
        name = host_name(endpoint_id)
        ifindex = find_ifindex(name)
        return None if ifindex is None else Veth(name, ifindex, container_name(endpoint_id))

    def list_veths(self) -> dict[str, Veth]:
        """See ports.Links.  Recognised by kind, form of name, and alias."""
        with open_route() as route:
            found = [_veth(link) for link in dump(route, "get_links")
                     if is_host_name(link.get_attr("IFLA_IFNAME")) and is_pair(link)
                     and self._is_ours(link)]
        return {veth.host_name: veth for veth in found}

    def veth_name(self, endpoint_id: EndpointId) -> str:
        """See ports.Links."""
        return host_name(endpoint_id)

    def _is_ours(self, link: Any) -> bool:
        """Whether nobody else's host id is on it; drivers of before wrote none."""
        _, owner = pair_owner(link.get_attr("IFLA_IFALIAS"))
        return owner is None or self._owner is None or owner == self._owner

    def _adopt(self, route: Route, link: Any, endpoint_id: EndpointId, mac: bytes, mtu: int
               ) -> Veth:
        name = host_name(endpoint_id)
        if not is_pair(link):
            raise LinkError(f"interface {name} exists and is no veth or netkit pair: remove it")
        endpoint, owner = pair_owner(link.get_attr("IFLA_IFALIAS"))
        if endpoint not in (None, endpoint_id):
            raise LinkError(f"interface {name} belongs to endpoint {endpoint}")
        if not self._is_ours(link):
            raise LinkError(f"interface {name} belongs to host id {owner}")
        self._configure(route, endpoint_id, mac, mtu,
                        container_end=link.get_attr("IFLA_LINK_NETNSID") is None)
        return _veth(link)

    def _configure(self, route: Route, endpoint_id: EndpointId, mac: bytes, mtu: int, *,
                   container_end: bool) -> None:
        """Configure both ends.  container_end: that end is in this namespace, too."""
        name, inner = host_name(endpoint_id), container_name(endpoint_id)
        changes = Changes(route)
        if container_end:
            # NOARP survives the move: every neighbour of a container is behind our programs, and
            # none answers ARP or ND.
            with changes.step(f"configure {inner}") as planned:
                planned.link("set", ifname=inner, address=_mac_text(mac), mtu=mtu,
                             flags=_IFF_NOARP, change=_IFF_NOARP)
        plan_no_own_addresses(changes, name)
        with changes.step(f"configure {name}") as planned:  # the alias names the owner
            planned.link("set", ifname=name, ifalias=pair_alias(endpoint_id, self._owner), mtu=mtu,
                         flags=_IFF_UP, change=_IFF_UP)
        changes.apply()


def probe_kind(kind: str) -> str:
    """Create a pair of that kind, delete it again, and return its actual kind.

    Error: LinkError, also if it must be netkit and the kernel has no netkit.
    """
    links = Veths(kind)
    with open_route() as route:
        _delete(route, PROBE_NAME)  # left by a process that was killed
        try:
            links._add(route, PROBE_NAME, PROBE_PEER, "02:00:00:00:00:01", 1500)
            found = _find(route, PROBE_NAME)
        finally:
            _delete(route, PROBE_NAME)
    return str(kind_of(found))


def is_pair(link: Any) -> bool:
    """Tell whether the link (pyroute2's) is an end of a pair of a kind that slim creates."""
    return kind_of(link) in (VETH, netkit.KIND)


def _is(error: LinkError, code: int) -> bool:
    return getattr(error.__cause__, "code", None) == code


def _find(route: Route, name: str) -> Any | None:
    with step(f"look for {name}", ignore=(errno.ENODEV,)):
        found = route.link("get", ifname=name)
        return found[0] if found else None
    return None


def _delete(route: Route, name: str) -> None:
    with step(f"remove pair {name}", ignore=(errno.ENODEV,)):
        route.link("del", ifname=name)


def _veth(link: Any) -> Veth:
    name = str(link.get_attr("IFLA_IFNAME"))
    return Veth(host_name=name, host_ifindex=int(link["index"]),
                container_name=container_name_of(name),
                carrier=bool(link.get_attr("IFLA_CARRIER")))


def _mac_text(mac: bytes) -> str:
    return mac.hex(":")
