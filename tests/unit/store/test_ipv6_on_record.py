"""Tests whether an endpoint takes IPv6 on the host path, in records, and in those without it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any

import pytest

from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.store.format import records
from tests.support.faults.spoilt_data import NO_IPV6

WEB = Endpoint(
    id=EndpointId("e" * 64), network_id=NetworkId("n" * 64), vni=Vni(7), host=HostId("a" * 32),
    underlay=IPv4Address("198.18.0.1"), mac=bytes(6), address=IPv4Interface("10.32.0.2/16"),
    address6=IPv6Interface("fd00::2/64"), port=61000, takes_ipv6=True)
OVERLAY = replace(WEB, takes_ipv6=False)


def all_fields(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [records.shared_endpoint_fields(endpoint), records.local_endpoint_fields(endpoint)]


def read(fields: dict[str, Any]) -> Endpoint:
    return records.parse("key", records.encode(fields), records.endpoint)


@pytest.mark.parametrize("endpoint", [WEB, OVERLAY])
def test_it_comes_back(endpoint: Endpoint) -> None:
    assert [read(fields) for fields in all_fields(endpoint)] == [endpoint] * 2
    assert records.left(records.left_fields(endpoint)) == endpoint


@pytest.mark.parametrize("spoilt", NO_IPV6)
def test_what_is_missing_or_spoilt_means_the_overlay(spoilt: object) -> None:
    """Also from an older driver: its programs would not understand the SYNs."""
    for fields in all_fields(WEB):
        del fields["takes_ipv6"]
        if spoilt is not ...:
            fields["takes_ipv6"] = spoilt
        assert read(fields) == OVERLAY
