"""Says which addresses a host can have in its underlay; for settings, records and the device.

Pure.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from driver.model import HostAddress


def unfit(address: HostAddress) -> str:
    """Return why no host can be reached by this address; "": one can.

    Only IPv6 is judged: what an IPv4 address is good for, its network knows.
    """
    if not isinstance(address, IPv6Address):
        return ""
    if address.ipv4_mapped is not None:
        return f"{address} is an IPv4 address: write {address.ipv4_mapped}"
    if address.is_link_local:
        return f"{address} is link-local: it means another host on each link"
    if address.scope_id is not None:
        return f"{address} has a zone: name the address alone"
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        return f"{address} is no address of one host in a network"
    return ""
