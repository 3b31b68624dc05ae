"""Translates the domain's values into map keys and values, and back.

It builds and reads single entries; datapath.py decides the order of effects.
"""

from __future__ import annotations

import ctypes
import sys
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any

from driver.datapath.loading.load import u16_be, u32_be
from driver.model import Endpoint, EndpointId, HostAddress, HostId, NetworkId, Vni
from driver.services.ports import Attachment, SandboxEntry, Veth


def bytes_into(array: Any, value: bytes) -> None:
    """Copy `value` into a ctypes byte array of the same length."""
    ctypes.memmove(array, value, len(value))


def address_of(in_memory: int) -> IPv4Address:
    """Return the address whose network order this integer has in memory; inverse of u32_be."""
    return IPv4Address(int(in_memory).to_bytes(4, sys.byteorder))


def address_key(table: Any, vni: Vni, address: IPv4Address | IPv6Address) -> Any:
    """Key of `endpoints`/`directory` (v4) or `endpoints6`/`directory6` (v6)."""
    key = table.Key()
    key.vni = vni
    if isinstance(address, IPv4Address):
        key.addr_be = u32_be(address)
    else:
        bytes_into(key.addr, address.packed)
    return key


def location(table: Any, endpoint: Endpoint, underlay_be: int) -> Any:
    """Value of `directory` or `directory6`: where the endpoint is.  underlay_be: its host's U."""
    leaf = table.Leaf()
    leaf.underlay_be = underlay_be
    by_ipv4 = hasattr(table.Key, "addr_be")
    leaf.port_be = u16_be(endpoint.port if by_ipv4 or endpoint.takes_ipv6 else 0)
    bytes_into(leaf.mac, endpoint.mac)
    return leaf


def remote(key: Any, leaf: Any, underlay: HostAddress) -> Endpoint:
    """Read an entry of `directory` or `directory6`: an endpoint with one address and no ids.

    underlay: what the entry's U stands for.
    """
    v4 = hasattr(key, "addr_be")
    return Endpoint(
        id=EndpointId(""), network_id=NetworkId(""), vni=Vni(int(key.vni)), host=HostId(""),
        underlay=underlay, mac=bytes(leaf.mac),
        address=IPv4Interface(key.addr_be.to_bytes(4, sys.byteorder)) if v4 else None,
        address6=None if v4 else IPv6Interface(bytes(key.addr)), port=u16_be(leaf.port_be),
        takes_ipv6=not v4 and leaf.port_be != 0)


def delivery(table: Any, mac: bytes, ifindex: int) -> Any:
    """Value of `endpoints`: how the overlay reaches a local endpoint."""
    leaf = table.Leaf()
    leaf.ifindex = ifindex
    bytes_into(leaf.mac, mac)
    return leaf


def wire_name(table: Any, endpoint: Endpoint, underlay_be: int) -> Any:
    """Key of `reverse`: (U, P)."""
    key = table.Key()
    key.underlay_be = underlay_be
    key.port_be = u16_be(endpoint.port)
    return key


def veth_entry(table: Any, endpoint: Endpoint, cookie: int) -> Any:
    """Value of `veths`: what the endpoint's packets may claim to be."""
    leaf = table.Leaf()
    leaf.sandbox = cookie
    leaf.vni = endpoint.vni
    if endpoint.address is not None:
        leaf.addr_be = u32_be(endpoint.address.ip)
        leaf.broadcast_be = u32_be(endpoint.address.network.broadcast_address)
    if endpoint.address6 is not None:
        bytes_into(leaf.addr6, endpoint.address6.ip.packed)
    return leaf


def port_entry(table: Any, entry: SandboxEntry, attachment: Attachment) -> Any:
    """Value of `ports`: who owns an endpoint port."""
    leaf = table.Leaf()
    leaf.sandbox = entry.cookie
    leaf.vni = attachment.vni
    leaf.addr_be = u32_be(attachment.address.ip)
    leaf.ifindex = entry.primary_ifindex
    return leaf


def sandbox_entry(table: Any, entry: SandboxEntry) -> Any:
    """Value of `sandboxes`: what the connect hooks know."""
    leaf = table.Leaf()
    leaf.ifindex = entry.primary_ifindex
    leaf.count = min(len(entry.attachments), len(leaf.attachments))
    for slot, attachment in zip(leaf.attachments, entry.attachments, strict=False):
        network = attachment.address.network
        slot.vni = attachment.vni
        slot.subnet_be = u32_be(network.network_address)
        slot.mask_be = u32_be(network.netmask)
        slot.addr_be = u32_be(attachment.address.ip)
        slot.port_be = u16_be(attachment.port)
    return leaf


def sandbox6_entry(table: Any, entry: SandboxEntry, *, over_ipv6: bool) -> Any | None:
    """Value of `sandboxes6`: what both ends know of IPv6; None: no part of it uses IPv6.

    over_ipv6: of the underlay: nobody has a port, but connect() counts why there is no host path.
    """
    leaf = table.Leaf()
    found = [each for each in entry.attachments
             if each.address6 is not None and (each.port or over_ipv6)]
    leaf.count = min(len(found), len(leaf.attachments))
    for slot, attachment in zip(leaf.attachments, found, strict=False):
        assert attachment.address6 is not None
        bytes_into(slot.addr.words, attachment.address6.ip.packed)
        bytes_into(slot.mask.words, attachment.address6.network.netmask.packed)
        slot.vni = attachment.vni
        slot.port_be = u16_be(attachment.port)
    return leaf if found else None


def address6(table: Any, address: IPv6Address) -> Any:
    """Value of `addresses6`."""
    leaf = table.Leaf()
    bytes_into(leaf.words, address.packed)
    return leaf


def same(a: Any, b: Any) -> bool:
    """Tell whether two ctypes structs hold the same bytes."""
    return bytes(a) == bytes(b)


def veth_cookie(table: Any, veth: Veth) -> int:
    """Return the sandbox that a veth's entry names, 0 if there is none yet."""
    key = table.Key(veth.host_ifindex)
    try:
        return int(table[key].sandbox)
    except KeyError:
        return 0
