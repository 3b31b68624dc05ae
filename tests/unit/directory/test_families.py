"""Tests that endpoints of hosts with the other family's underlay stay out of the maps, and why."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from driver.model import Endpoint
from driver.services.directory.entries import Entry
from driver.services.directory.publisher import Publisher
from tests.support.fakes.ports import HOST, Faults
from tests.unit.directory.test_publisher import (
    THERE,
    VNI,
    RecordingDatapath,
    endpoint,
    there,
)

SIX = IPv6Address("2001:db8::6")


def over_ipv6(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, underlay=SIX, port=0)


@pytest.fixture
def datapath() -> RecordingDatapath:
    return RecordingDatapath(Faults())


@pytest.fixture
def publisher(datapath: RecordingDatapath) -> Publisher:
    return Publisher(datapath, HOST.id, underlay=IPv4Address("198.18.0.1"))


def test_it_is_left_out_and_counted(datapath: RecordingDatapath, publisher: Publisher) -> None:
    publisher.snapshot(VNI, [endpoint("a"), there("b", "10.50.0.3/16"),
                             over_ipv6(there("c", "10.50.0.4/16"))], 5)
    assert datapath.addresses() == ["10.50.0.2", "10.50.0.3"]
    assert datapath.floods[VNI] == ([THERE], [])
    assert (publisher.uncertain().out_of_reach, publisher.uncertain().contested) == (1, 0)
    publisher.left(VNI, over_ipv6(there("c", "10.50.0.4/16")))
    assert publisher.uncertain().out_of_reach == 0


def test_its_host_changes_sides(datapath: RecordingDatapath, publisher: Publisher) -> None:
    b = there("b", "10.50.0.3/16")
    publisher.put(b)
    publisher.put(over_ipv6(b))
    assert (datapath.addresses(), datapath.floods[VNI]) == ([], ([], []))
    assert publisher.uncertain().out_of_reach == 1
    publisher.put(b)
    assert (datapath.addresses(), datapath.floods[VNI]) == (["10.50.0.3"], ([THERE], []))
    assert publisher.uncertain().out_of_reach == 0


def test_what_is_not_on_record_any_more_is_not_counted(publisher: Publisher) -> None:
    publisher.snapshot(VNI, [over_ipv6(there("b", "10.50.0.3/16"))], 5)
    publisher.snapshot(VNI, [], 6)
    assert publisher.uncertain().out_of_reach == 0
    publisher.put(over_ipv6(there("b", "10.50.0.3/16")))
    publisher.missing(VNI, there("b", "10.50.0.3/16").id, 7)
    assert publisher.uncertain().out_of_reach == 0


def test_own_endpoints_of_an_earlier_underlay_are_no_others(
        datapath: RecordingDatapath, publisher: Publisher) -> None:
    publisher.put(over_ipv6(endpoint("a")))
    assert datapath.addresses() == ["10.50.0.2"]
    assert publisher.uncertain().out_of_reach == 0


def test_this_host_has_changed_sides(datapath: RecordingDatapath) -> None:
    """What the driver before knew goes once the record says that it is out of reach."""
    Publisher(datapath, HOST.id).snapshot(VNI, [endpoint("a"), there("b", "10.50.0.3/16")], 5)
    now = Publisher(datapath, HOST.id, underlay=SIX)
    now.snapshot(VNI, [over_ipv6(endpoint("a")), there("b", "10.50.0.3/16")], 6)
    assert datapath.addresses() == ["10.50.0.2"]
    assert datapath.floods[VNI] == ([], [])
    assert now.uncertain().out_of_reach == 1


def test_only_who_is_sure_of_its_address_keeps_it(datapath: RecordingDatapath) -> None:
    """Another endpoint has the address on record: a record out of reach does not end that."""
    publisher = Publisher(datapath, HOST.id, underlay=IPv4Address("198.18.0.1"))
    publisher.put(there("b", "10.50.0.3/16"))
    publisher.put(over_ipv6(there("c", "10.50.0.3/16")))
    assert datapath.addresses() == ["10.50.0.3"]
    assert publisher.uncertain().out_of_reach == 1


@pytest.mark.parametrize("underlay", [IPv4Address("198.18.0.2"), IPv4Address("255.255.255.255"),
                                      SIX, IPv6Address("fd00::"), IPv6Address("1::ffff:1.2.3.4")])
def test_an_entry_has_any_underlay(underlay: IPv4Address | IPv6Address) -> None:
    entry = Entry.of(replace(there("b", "10.50.0.3/16"), underlay=underlay), others=True)
    assert entry.underlay == underlay
    assert entry.endpoint().underlay == underlay
    assert entry.name == (underlay, 61000)
