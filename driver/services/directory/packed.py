"""Packs endpoints into the compact form in which the publisher remembers the maps' entries."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni

# 72 bytes instead of a kilobyte, as there are tens of thousands of them: flags (which addresses
# are present), VNI, U, P, MAC, address, address6.
_PACKED = struct.Struct("=BIIH6sI16s")
_ADDRESS, _ADDRESS6, OTHERS = 1, 2, 4


def pack(endpoint: Endpoint, *, others: bool) -> bytes:
    """Pack exactly the fields a map entry holds.

    Host-local fields are left out, so changing them is no change.
    """
    address, address6 = endpoint.address, endpoint.address6
    flags = ((_ADDRESS if address is not None else 0) | (_ADDRESS6 if address6 is not None else 0)
             | (OTHERS if others else 0))
    return _PACKED.pack(
        flags, endpoint.vni, int(endpoint.underlay), endpoint.port, endpoint.mac,
        int(address) if address is not None else 0,  # int() drops an interface's prefix length
        address6.packed if address6 is not None else b"")


def unpack(packed: bytes, endpoint_id: EndpointId = EndpointId("")) -> Endpoint:  # noqa: B008
    """Return the endpoint as far as the maps know it: enough to remove its entries."""
    flags, vni, underlay, port, mac, address, address6 = _PACKED.unpack(packed)
    return Endpoint(
        id=endpoint_id, network_id=NetworkId(""), vni=Vni(vni), host=HostId(""),
        underlay=IPv4Address(underlay), mac=mac, port=port,
        address=IPv4Interface(address) if flags & _ADDRESS else None,
        address6=IPv6Interface(address6) if flags & _ADDRESS6 else None)


def underlay_of(packed: bytes) -> IPv4Address:
    """Return its host's address U."""
    return IPv4Address(_PACKED.unpack(packed)[2])


def name_of(packed: bytes) -> tuple[IPv4Address, int]:
    """Return its host's address U and its endpoint port P."""
    _, _, underlay, port, _, _, _ = _PACKED.unpack(packed)
    return IPv4Address(underlay), port


def addresses_of(packed: bytes) -> list[int | bytes]:
    """Return its addresses as distinguishable keys: a number for IPv4, bytes for IPv6."""
    flags, _, _, _, _, address, address6 = _PACKED.unpack(packed)
    found: list[int | bytes] = [address] if flags & _ADDRESS else []
    return [*found, address6] if flags & _ADDRESS6 else found


def places(endpoint: Endpoint) -> list[bytes]:
    """Pack the endpoint once per address: each is a separate entry that may exist alone."""
    packed = pack(endpoint, others=False)
    if endpoint.address6 is None:
        return [packed] if endpoint.address is not None else []
    v6 = pack(replace(endpoint, address=None), others=False)
    return [v6] if endpoint.address is None else [
        pack(replace(endpoint, address6=None), others=False), v6]


def places_of(packed: bytes) -> list[bytes]:
    """Do what `places` does, for a packed endpoint."""
    if packed[0] & _ADDRESS6:
        return places(unpack(packed))
    return [bytes((_ADDRESS,)) + packed[1:]] if packed[0] & _ADDRESS else []
