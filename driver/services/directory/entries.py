"""Defines what the maps say of one endpoint: a value in 84 bytes."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any, Self

from driver.model import Endpoint, EndpointId, HostAddress, HostId, NetworkId, Vni

# Flags (below), VNI, U (IPv4 as ::ffff:U), P, MAC, address, address6.  Packed, because an Endpoint
# takes a kilobyte, and there are tens of thousands of them.
_PACKED = struct.Struct("=BI16sH6sI16s")
# It has an address; an address6; is another host's; peers may call its address6 on its port.
_ADDRESS, _ADDRESS6, _OTHERS, _TAKES_IPV6 = 1, 2, 4, 8
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2


class Entry(bytes):
    """Exactly the fields that the maps hold, and whose they are.

    Host-local fields are left out: changing them makes no other entry.  Entries are equal if all
    they say is.
    """

    __slots__ = ()

    @classmethod
    def of(cls, endpoint: Endpoint, *, others: bool) -> Self:
        """Make the entry of an endpoint.  others: it is another host's."""
        address, address6 = endpoint.address, endpoint.address6
        flags = ((_ADDRESS if address is not None else 0)
                 | (_ADDRESS6 if address6 is not None else 0) | (_OTHERS if others else 0)
                 | (_TAKES_IPV6 if address6 is not None and endpoint.takes_ipv6 else 0))
        return cls(_PACKED.pack(
            flags, endpoint.vni, _packed(endpoint.underlay), endpoint.port, endpoint.mac,
            int(address) if address is not None else 0,  # int() drops an interface's prefix length
            address6.packed if address6 is not None else b""))

    def endpoint(self, endpoint_id: EndpointId = EndpointId("")) -> Endpoint:  # noqa: B008
        """Return the endpoint as far as the maps know it: enough to write or remove its entry."""
        flags, vni, underlay, port, mac, address, address6 = self._fields()
        return Endpoint(
            id=endpoint_id, network_id=NetworkId(""), vni=Vni(vni), host=HostId(""),
            underlay=_unpacked(underlay), mac=mac, port=port,
            address=IPv4Interface(address) if flags & _ADDRESS else None,
            address6=IPv6Interface(address6) if flags & _ADDRESS6 else None,
            takes_ipv6=bool(flags & _TAKES_IPV6))

    @property
    def others(self) -> bool:
        """Whether it is another host's."""
        return bool(self[0] & _OTHERS)

    @property
    def vni(self) -> Vni:
        """Its network."""
        return Vni(self._fields()[1])

    @property
    def name(self) -> tuple[HostAddress, int]:
        """Its host's address U and its endpoint port P."""
        fields = self._fields()
        return _unpacked(fields[2]), fields[3]

    @property
    def underlay(self) -> HostAddress:
        """Its host's address U."""
        return self.name[0]

    @property
    def address(self) -> IPv4Address | None:
        """Its IPv4 address."""
        return IPv4Address(self._fields()[5]) if self[0] & _ADDRESS else None

    def addresses(self) -> list[int | bytes]:
        """Return its addresses as distinguishable keys: a number for IPv4, bytes for IPv6."""
        flags, _, _, _, _, address, address6 = self._fields()
        found: list[int | bytes] = [address] if flags & _ADDRESS else []
        return [*found, address6] if flags & _ADDRESS6 else found

    def places(self) -> list[Entry]:
        """Return it once per address: in the maps each of these may exist alone."""
        return [self._only(flag) for flag in (_ADDRESS, _ADDRESS6) if self[0] & flag]

    def outdated_by(self, after: Entry) -> Entry:
        """Return the part that entering `after` does not overwrite; it has the other addresses."""
        kept = self[0] & (_ADDRESS | _ADDRESS6)
        both = self[0] & after[0]
        mine, its = self._fields(), after._fields()
        if both & _ADDRESS and (mine[2:4], mine[5]) == (its[2:4], its[5]):
            kept &= ~_ADDRESS  # a port of the host leads to it, too: both must be the same
        if both & _ADDRESS6 and mine[6] == its[6]:
            kept &= ~_ADDRESS6
        return self._only(kept)

    def _only(self, flags: int) -> Entry:
        before, vni, underlay, port, mac, address, address6 = self._fields()
        takes_ipv6 = before & _TAKES_IPV6 if flags & _ADDRESS6 else 0
        if not flags & _ADDRESS and not takes_ipv6:
            port = 0  # as `directory6` has it: read back from there, it must be the same
        return Entry(_PACKED.pack(
            flags | takes_ipv6, vni, underlay, port, mac, address if flags & _ADDRESS else 0,
            address6 if flags & _ADDRESS6 else b""))

    def _fields(self) -> tuple[Any, ...]:
        return _PACKED.unpack(self)


def _packed(underlay: HostAddress) -> bytes:
    return underlay.packed if isinstance(underlay, IPv6Address) else _MAPPED + underlay.packed


def _unpacked(packed: bytes) -> HostAddress:
    if packed.startswith(_MAPPED):
        return IPv4Address(packed[len(_MAPPED):])
    return IPv6Address(packed)
