"""What the publisher remembers of an endpoint is what its entries say, and no more."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

import pytest

from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.directory.packed import OTHERS, pack, places, places_of, unpack

BOTH = Endpoint(
    id=EndpointId("e" * 64), network_id=NetworkId("n"), vni=Vni(0xFFFFFF), host=HostId("h"),
    underlay=IPv4Address("198.18.0.1"), mac=bytes(range(6)),
    address=IPv4Interface("10.32.0.2/16"), address6=IPv6Interface("fd00::2/64"), port=65535)
V4, V6 = replace(BOTH, address6=None), replace(BOTH, address=None)
NEITHER = replace(V4, address=None)


@pytest.mark.parametrize("endpoint", [BOTH, V4, V6, NEITHER])
@pytest.mark.parametrize("others", [True, False])
def test_what_an_entry_needs_comes_back(endpoint: Endpoint, others: bool) -> None:
    packed = pack(endpoint, others=others)
    assert bool(packed[0] & OTHERS) == others
    found = unpack(packed, endpoint.id)
    assert (found.id, found.vni, found.underlay, found.mac, found.port) == (
        endpoint.id, endpoint.vni, endpoint.underlay, endpoint.mac, endpoint.port)
    for before, after in ((endpoint.address, found.address), (endpoint.address6, found.address6)):
        assert (before and before.ip) == (after and after.ip)


def test_each_address_is_a_place_of_its_own() -> None:
    assert set(places(BOTH)) == {*places(V4), *places(V6)}
    assert [len(places(endpoint)) for endpoint in (BOTH, V4, V6, NEITHER)] == [2, 1, 1, 0]
    for endpoint in (BOTH, V4, V6, NEITHER):
        assert places_of(pack(endpoint, others=True)) == places(endpoint)


@pytest.mark.parametrize("changed", [
    replace(BOTH, vni=Vni(1)), replace(BOTH, underlay=IPv4Address("198.18.0.2")),
    replace(BOTH, mac=bytes(6)), replace(BOTH, port=0), V4, V6,
    replace(BOTH, address=IPv4Interface("10.32.0.3/16"))])
def test_what_an_entry_says_makes_it_another_one(changed: Endpoint) -> None:
    assert pack(changed, others=True) != pack(BOTH, others=True)


def test_what_matters_within_its_host_does_not() -> None:
    assert pack(replace(BOTH, sandbox_key="/x"), others=True) == pack(BOTH, others=True)
