"""What the publisher remembers of an endpoint is what its entries say, and no more."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

import pytest

from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.directory.entries import Entry

BOTH = Endpoint(
    id=EndpointId("e" * 64), network_id=NetworkId("n"), vni=Vni(0xFFFFFF), host=HostId("h"),
    underlay=IPv4Address("198.18.0.1"), mac=bytes(range(6)),
    address=IPv4Interface("10.32.0.2/16"), address6=IPv6Interface("fd00::2/64"), port=65535)
V4, V6 = replace(BOTH, address6=None), replace(BOTH, address=None)
NEITHER = replace(V4, address=None)
TAKES = replace(BOTH, takes_ipv6=True)


@pytest.mark.parametrize("endpoint", [BOTH, V4, V6, NEITHER, TAKES])
@pytest.mark.parametrize("others", [True, False])
def test_what_an_entry_needs_comes_back(endpoint: Endpoint, others: bool) -> None:
    entry = Entry.of(endpoint, others=others)
    assert entry.others is others
    assert (entry.vni, entry.underlay) == (endpoint.vni, endpoint.underlay)
    assert entry.name == (endpoint.underlay, endpoint.port)
    assert entry.address == (endpoint.address and endpoint.address.ip)
    found = entry.endpoint(endpoint.id)
    assert (found.id, found.vni, found.underlay, found.mac, found.port, found.takes_ipv6) == (
        endpoint.id, endpoint.vni, endpoint.underlay, endpoint.mac, endpoint.port,
        endpoint.takes_ipv6)
    for before, after in ((endpoint.address, found.address), (endpoint.address6, found.address6)):
        assert (before and before.ip) == (after and after.ip)


def entry_of(endpoint: Endpoint) -> Entry:
    return Entry.of(endpoint, others=True)


def test_each_address_is_a_place_of_its_own() -> None:
    both, v4, v6, neither = map(entry_of, (BOTH, V4, V6, NEITHER))
    assert set(both.places()) == {*v4.places(), *v6.places()}
    assert [len(each.places()) for each in (both, v4, v6, neither)] == [2, 1, 1, 0]
    assert Entry.of(BOTH, others=False).places() == both.places()


def test_a_place_says_what_the_map_of_its_family_does() -> None:
    """What is read back from a map, without the record, must be the same place."""
    for endpoint, port6 in ((BOTH, 0), (TAKES, BOTH.port)):
        v4, v6 = (place.endpoint() for place in entry_of(endpoint).places())
        assert (v4.port, v4.takes_ipv6) == (BOTH.port, False)
        assert (v6.port, v6.takes_ipv6) == (port6, port6 != 0)
        (again,) = entry_of(v6).places()
        assert again == entry_of(endpoint).places()[1]


@pytest.mark.parametrize("changed", [
    TAKES, replace(BOTH, vni=Vni(1)), replace(BOTH, underlay=IPv4Address("198.18.0.2")),
    replace(BOTH, mac=bytes(6)), replace(BOTH, port=0), V4, V6,
    replace(BOTH, address=IPv4Interface("10.32.0.3/16"))])
def test_what_an_entry_says_makes_it_another_one(changed: Endpoint) -> None:
    assert entry_of(changed) != entry_of(BOTH)


def test_what_matters_within_its_host_does_not() -> None:
    assert entry_of(replace(BOTH, sandbox_key="/x")) == entry_of(BOTH)


@pytest.mark.parametrize(("after", "left"), [
    (BOTH, NEITHER),
    (replace(BOTH, mac=bytes(6)), NEITHER),
    (TAKES, NEITHER),
    (V4, V6),  # entering it does not touch the other family's
    (V6, V4),
    (replace(BOTH, address=IPv4Interface("10.32.0.3/16")), V4),
    # The host's port leads to the address: what is found by the old port must go.
    (replace(BOTH, port=1), V4),
    (replace(BOTH, underlay=IPv4Address("198.18.0.2")), V4),
    (NEITHER, BOTH)])
def test_what_a_later_one_does_not_overwrite(after: Endpoint, left: Endpoint) -> None:
    outdated = Entry.of(BOTH, others=False).outdated_by(Entry.of(after, others=False))
    assert outdated.places() == entry_of(left).places()
