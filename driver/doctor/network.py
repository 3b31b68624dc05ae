"""Checks the real network, the ports, and what slim adds to the host."""

from __future__ import annotations

from pathlib import Path

from driver.client_ports import client_ports, unreserved
from driver.commands.cleanup import driver_runs
from driver.doctor import procfs
from driver.doctor.finding import CheckError
from driver.errors import SlimError
from driver.settings import Settings

# Containers' IPv6 asks for links of 1280 bytes; VXLAN adds 50: 1280 + 50 = 1330, and over IPv6 70.
OVERLAY_MTU_MINIMUM = 1280


def check_underlay(settings: Settings) -> str:
    """Check the device and address of the real network."""
    from driver.link.underlay.device import find_underlay  # noqa: PLC0415
    from driver.link.underlay.vxlan import overlay_mtu  # noqa: PLC0415

    found = find_underlay(settings.underlay)
    overlay = overlay_mtu(found.mtu, over_ipv6=found.address4 is None)
    if overlay < OVERLAY_MTU_MINIMUM:
        needed = found.mtu - overlay + OVERLAY_MTU_MINIMUM
        raise CheckError(f"{found.name} has an MTU of {found.mtu} bytes, {needed} "
                         f"are needed: ip link set {found.name} mtu 1500, or another --underlay")
    return (f"{found.name}, {found.address}, MTU {found.mtu} "
            f"(overlay path {overlay})"
            f"{'' if found.address4 else '; over IPv6 the host path is for IPv6 sockets'}")


def check_ports(settings: Settings) -> str:
    """Check the endpoint ports: clients have enough other ports, and nobody listens on these."""
    from driver.link.underlay.port_settings import ReservedPorts, ephemeral_ports  # noqa: PLC0415

    first, last = settings.port_range.first, settings.port_range.last
    reserved, ephemeral = ReservedPorts(Path(settings.state)), ephemeral_ports()
    # As the driver judges at its start.
    clients = client_ports((first, last), ephemeral, reserved.others())
    problem = unreserved((first, last), ephemeral, reserved.all())
    if problem and (driver_runs(settings.socket) or not reserved.writable()):
        raise CheckError(problem)
    taken = sorted({one.port for one in procfs.bound("tcp", listening=True)
                    if first <= one.port <= last and not one.loopback_only})
    if taken:
        raise CheckError(f"in {settings.port_range} somebody listens on {_some(taken)} (ss -ltnp "
                      "shows who): stop it, or take another --port-range")
    return (f"{settings.port_range}, {last - first + 1} endpoints; source ports {clients}"
            f"{'; the driver reserves them at its start' if problem else ''}")


def check_vxlan_port(settings: Settings) -> str:
    """Check the overlay path's UDP port: free, or held by our own device."""
    from driver.link.netlink.names import VXLAN_NAME  # noqa: PLC0415

    port = settings.vxlan_port
    if procfs.has_link(VXLAN_NAME):
        return f"{port}, {VXLAN_NAME} is there"
    if any(one.port == port and not one.loopback_only for one in procfs.bound("udp")):
        raise CheckError(f"UDP port {port} is in use (ss -lunp, ip -d link show type vxlan): take "
                      "another --vxlan-port, the same on all hosts")
    return str(port)


def check_pairs(settings: Settings) -> str:
    """Check the kind of containers' interfaces by really making a pair."""
    from driver.link.pairs.veth import probe_kind  # noqa: PLC0415

    try:
        return probe_kind(settings.pair_kind)
    except SlimError as error:
        raise CheckError(str(error)) from None


def check_guard(settings: Settings) -> str:
    """Check the kernel's packet filter, for what others would forward in this host's name."""
    del settings
    from driver.link.underlay.guard import packet_filter_works  # noqa: PLC0415

    packet_filter_works()
    return "nf_tables, nft_ct, nft_nat"


def check_notrack(settings: Settings) -> str:
    """Check the rules that keep host-path packets in containers from being tracked."""
    del settings
    from driver.link.sandbox import untracked  # noqa: PLC0415

    untracked.works()
    return "nf_tables, nft_ct"


def _some(ports: list[int]) -> str:
    shown = ", ".join(map(str, ports[:5]))
    return shown if len(ports) <= 5 else f"{shown} and {len(ports) - 5} more"
