"""Endpoints with names, and what Docker says of them."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.ports import Container, NamesView

VNI, OTHER_VNI = Vni(7), Vni(8)
NETWORK, OTHER_NETWORK = NetworkId("a" * 64), NetworkId("b" * 64)
U = IPv4Address("198.18.0.1")


def endpoint(number: int, *names: str, network: NetworkId = NETWORK, vni: Vni = VNI,
             v4: bool = True, v6: bool = False) -> Endpoint:
    """Return an endpoint with 10.32.0.<number>, fd00::<number> (in hexadecimal), or both."""
    return Endpoint(
        id=EndpointId(f"{number:02x}" * 32), network_id=network, vni=vni, host=HostId("c" * 32),
        underlay=U, mac=bytes(5) + bytes((number,)),
        address=IPv4Interface(f"10.32.0.{number}/16") if v4 else None,
        address6=IPv6Interface(f"fd00::{number:x}/64") if v6 else None, port=0, names=names)


def container(*links: str, **names: tuple[str, ...]) -> Container:
    """Return a container: endpoint's id -> its names there."""
    return Container("alice", {EndpointId(each): frozenset(found) for each, found in names.items()},
                     frozenset(links))


def view(*containers: Container, networks: Mapping[NetworkId, str] | None = None,
         network_of: Mapping[EndpointId, NetworkId] | None = None) -> NamesView:
    """Return what Docker says."""
    return NamesView(containers, networks or {}, network_of or {})
