"""Address services of several hosts on one store, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from random import Random

from driver.ipam.pools import parse_supernet
from driver.model import HostId
from driver.services.addresses.service import AddressService
from driver.services.ports import RoutedNetwork
from driver.store.address_book import EtcdAddressBook
from driver.store.kv.protocol import KeyValue

GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}


def host_id(number: int) -> HostId:
    return HostId(f"{number:032x}")


def service(kv: KeyValue, number: int = 1, *, supernet: str = "10.128.0.0/24",
            prefixlen: int = 26, supernet6: str = "fd73::/62",
            routed: Sequence[IPv4Network | IPv6Network] = (),
            underlay: IPv4Address | None = None) -> AddressService:
    """Return what runs on host `number`; by default there are four automatic pools."""
    return AddressService(
        EtcdAddressBook(kv), host_id(number),
        supernets=[parse_supernet(supernet, prefixlen), parse_supernet(supernet6, 64)],
        routed=lambda: [RoutedNetwork(each, "eth9") for each in routed], underlay=underlay,
        random=Random(number))
