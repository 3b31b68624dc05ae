"""Sets up what slim adds inside containers' network namespaces (services.ports.Sandboxes).

dockerd has moved, renamed and addressed the interface before set_up is called.  Every visit runs in
a thread of its own (netns.run_in).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

from driver.errors import LinkError
from driver.link.netlink import filters
from driver.link.netlink import netns as namespaces
from driver.link.netlink.names import SANDBOX_FILTER_NAME
from driver.link.netlink.netns import same_path
from driver.link.netlink.sockets import Changes, Route, dump, open_route
from driver.link.pairs.veth import is_pair
from driver.link.sandbox import nonlocal_bind, routes, rules, untracked
from driver.link.sandbox.listeners import listeners
from driver.link.underlay.vxlan import VXLAN_OVERHEAD, VXLAN_OVERHEAD6
from driver.model import Endpoint, HostAddress
from driver.services.ports import Interface, Listeners, Veth

_IFF_UP: Final = 0x1


class KernelSandboxes:
    """Sets namespaces up and tears them down.  Thread-safe."""

    def __init__(self, *, ingress_program_fd: int | None = None,
                 path_of: Callable[[str], str] = same_path) -> None:
        """ingress_program_fd: the program (sched_cls) for every sandbox's ingress; None: no filter.

        path_of: turns SandboxKey, a path of the host, into the path that this process sees.
        """
        self.ingress_program_fd = ingress_program_fd
        self._path_of = path_of

    def cookie(self, sandbox_key: str) -> int | None:
        """See ports.Sandboxes."""
        return namespaces.cookie_of(self._path_of(sandbox_key))

    def set_up(self, sandbox_key: str, endpoint: Endpoint, veth: Veth, *,
               underlay: HostAddress | None, overlay_mtu: int, primary: bool) -> None:
        """See ports.Sandboxes.  overlay_mtu in bytes.

        Errors: NamespaceAbsent; LinkError naming the step, also when the interface is not
        inside, or lo or the interface is down.
        """
        path = self._path_of(sandbox_key)

        def inside() -> None:
            with open_route() as route:
                interface, mtu = find_interface(route, endpoint, veth)
                present = routes.read(route, v6=endpoint.address6 is not None)
                changes = Changes(route)
                # The kernel uses a route's MTU even if the device's is smaller.
                routes.plan_connected_mtu(changes, present, endpoint, interface,
                                          min(overlay_mtu, mtu))
                if self.ingress_program_fd is not None:
                    filters.plan_ingress(changes, interface.ifindex, self.ingress_program_fd,
                                         SANDBOX_FILTER_NAME)
                if not primary or underlay is None:
                    changes.apply()
                    if primary:  # of an earlier underlay
                        _remove_host_path(route, 4, 6)
                    return
                overhead = _prepare(underlay)
                # The underlay's MTU may be smaller than when the interface was created.
                underlay_mtu = overlay_mtu + overhead
                routes.plan_host_path(changes, interface, underlay,
                                      underlay_mtu if underlay_mtu < mtu else 0)
                superseded = rules.plan(changes, route, underlay)
                changes.apply()
                # Only now, when their replacements are in place.
                rules.remove_superseded(changes, superseded, underlay.version)
                routes.remove_superseded(changes, present, underlay, interface)
                changes.apply()
                _remove_host_path(route, 4 if underlay.version == 6 else 6)  # an earlier one's

        namespaces.run_in(path, inside, refuse_own=True)

    def listeners(self, sandbox_key: str) -> Listeners:
        """See ports.Sandboxes."""
        return listeners(self._path_of(sandbox_key))

    def put_away(self, sandbox_key: str, endpoint: Endpoint, veth: Veth) -> None:
        """See ports.Sandboxes.  Takes 1 ms; moving it to the host takes the kernel 10 to 20 ms."""

        def inside() -> None:
            with open_route() as route:
                link = _peer(route, endpoint, veth)
                if link.get_attr("IFLA_ADDRESS") != endpoint.mac.hex(":"):
                    raise _not_inside(endpoint, veth)  # the interface may be somebody else's
                changes = Changes(route)
                with changes.step(f"put {veth.container_name} away") as planned:
                    # Down first: before Linux 6.2 an interface that is up cannot be renamed.
                    planned.link("set", index=link["index"], flags=0, change=_IFF_UP)
                    planned.link("set", index=link["index"], ifname=veth.container_name)
                if endpoint.address is not None:  # an IPv6 address went with "down"
                    with changes.step(f"address of {veth.container_name}",
                                      ignore=(errno.EADDRNOTAVAIL,)) as planned:
                        planned.addr("del", index=link["index"], address=str(endpoint.address.ip),
                                     prefixlen=endpoint.address.network.prefixlen)
                changes.apply()

        namespaces.run_in(self._path_of(sandbox_key), inside, refuse_own=True)

    def tear_down(self, sandbox_key: str, underlay: HostAddress | None) -> None:  # noqa: ARG002
        """See ports.Sandboxes.  A namespace that is gone has taken everything with it."""

        def inside() -> None:
            with open_route() as route:
                _remove_host_path(route, 4, 6)

        try:
            namespaces.run_in(self._path_of(sandbox_key), inside, refuse_own=True)
        except namespaces.NamespaceAbsent:
            return


def _prepare(underlay: HostAddress) -> int:
    """Do what the host path needs before its rules; return the overlay's overhead in bytes."""
    if underlay.version == 6:
        nonlocal_bind.install()
        return VXLAN_OVERHEAD6
    # Without it the host path does not work for every program.
    if untracked.missing(untracked.read(), underlay):  # a new driver mostly finds it
        untracked.install(underlay)
    return VXLAN_OVERHEAD


def _remove_host_path(route: Route, *versions: int) -> None:
    """Remove what the host path over an underlay of these versions of IP has left here."""
    if 4 in versions:
        rules.remove(route, 4)
        routes.remove_host_path(route, 4)
        untracked.remove()
    if 6 in versions and rules.remove(route, 6):
        routes.remove_host_path(route, 6)
        nonlocal_bind.remove()


def find_interface(route: Route, endpoint: Endpoint, veth: Veth) -> tuple[Interface, int]:
    """Return the other end of `veth`, whatever dockerd calls it now, and its MTU (bytes)."""
    found = _peer(route, endpoint, veth)
    return (Interface(int(found["index"]), str(found.get_attr("IFLA_IFNAME"))),
            int(found.get_attr("IFLA_MTU")))


def _peer(route: Route, endpoint: Endpoint, veth: Veth) -> Any:
    """Return the other end of `veth`.  Error: LinkError (there is none)."""
    # IFLA_LINK is the peer's ifindex in *its* namespace: another pair, whose peer is in a
    # third namespace, may show the same number.  The MAC (which a user may have changed)
    # decides among several.
    mac = endpoint.mac.hex(":")
    peers = [link for link in dump(route, "get_links")
             if link.get_attr("IFLA_LINK") == veth.host_ifindex and is_pair(link)]
    if not peers:
        raise _not_inside(endpoint, veth)
    return min(peers, key=lambda link: link.get_attr("IFLA_ADDRESS") != mac)


def _not_inside(endpoint: Endpoint, veth: Veth) -> LinkError:
    return LinkError(f"sandbox of {endpoint.id[:12]}: the other end of {veth.host_name} "
                     "is not inside")
