"""Inspects a sandbox: is slim's set-up complete, and what have the container's programs changed?

Every look is a visit of its own (netns.run_in).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Interface, IPv6Interface

from driver.link.netlink import filters
from driver.link.netlink import netns as namespaces
from driver.link.netlink.names import SANDBOX_FILTER_NAME
from driver.link.netlink.netns import same_path
from driver.link.netlink.sockets import Changes, Route, dump, open_route, step
from driver.link.sandbox import nonlocal_bind, routes, rules, untracked
from driver.link.sandbox.packet_filter import own_rules
from driver.link.sandbox.sandbox import find_interface
from driver.model import Endpoint, HostAddress
from driver.services.ports import Findings, Interface, Veth


class KernelInspector:
    """ports.Inspector.  Thread-safe."""

    def __init__(self, *, overlay_mtu: Callable[[], int], with_filter: bool = True,
                 path_of: Callable[[str], str] = same_path) -> None:
        """overlay_mtu: bytes.  with_filter: interfaces have our filter.  path_of: as in sandbox."""
        self._overlay_mtu = overlay_mtu
        self._with_filter = with_filter
        self._path_of = path_of

    def look(self, sandbox_key: str, members: Sequence[tuple[Endpoint, Veth]], *,
             underlay: HostAddress | None, just_set_up: bool = False) -> Findings:
        """See ports.Inspector.  Whether virtual addresses are tracked follows the rules found."""

        def inside() -> Findings:
            with open_route() as route, step(f"look inside {sandbox_key}"):
                found = [(endpoint, *find_interface(route, endpoint, veth))
                         for endpoint, veth in members]
                lost = next(filter(None, (
                    _lost_address(route, endpoint.address, interface, socket.AF_INET)
                    for endpoint, interface, _ in found)), "")
                lost6 = next(filter(None, (
                    _lost_address(route, endpoint.address6, interface, socket.AF_INET6)
                    for endpoint, interface, _ in found)), "")
                tc = next((f"tc: {interface.name} has filters" for _, interface, _ in found
                           if filters.others_filters(route, interface.ifindex)), "")
                found_rules = own_rules(ipv6=any(
                    endpoint.address6 is not None for endpoint, _ in members))
                host_path = underlay if members and members[0][0].port else None
                over_ipv4 = host_path is not None and host_path.version == 4
                exempt = untracked.read() if over_ipv4 else b""
                missing = ""
                if host_path is not None and not just_set_up:
                    missing = _missing_of_host_path(route, found[0][1], host_path, exempt)
                if not missing and not just_set_up:
                    missing = next(filter(None, (
                        self._missing(route, *each) for each in found)), "")
                if host_path is not None and over_ipv4:
                    untracked.follow(exempt, host_path, () if found_rules else [
                        endpoint.address.ip for endpoint, _ in members if endpoint.address])
            return Findings(missing, lost, tc or found_rules, lost6)

        return namespaces.run_in(self._path_of(sandbox_key), inside, refuse_own=True)

    def _missing(self, route: Route, endpoint: Endpoint, interface: Interface, mtu: int) -> str:
        if (self._with_filter
                and filters.find_ingress(route, interface.ifindex) != SANDBOX_FILTER_NAME):
            return f"the filter {SANDBOX_FILTER_NAME} of {interface.name}"
        changes = Changes(route)
        routes.plan_connected_mtu(changes, routes.connected(route, interface), endpoint,
                                  interface, min(self._overlay_mtu(), mtu))
        return changes.planned()


def _missing_of_host_path(route: Route, interface: Interface, underlay: HostAddress,
                          exempt: bytes) -> str:
    return (rules.missing(route, underlay)
            or routes.missing_of_host_path(route, interface, underlay)
            or (untracked.missing(exempt, underlay) if underlay.version == 4
                else nonlocal_bind.missing()))


def _lost_address(route: Route, address: IPv4Interface | IPv6Interface | None,
                  interface: Interface, family: int) -> str:
    if address is None:
        return ""
    wanted = str(address.ip)
    found = dump(route, "get_addr", family=family, index=interface.ifindex)
    # IPv6 has IFA_LOCAL only for addresses with a peer.
    return "" if any(wanted in (each.get_attr("IFA_LOCAL"), each.get_attr("IFA_ADDRESS"))
                     for each in found) else wanted
