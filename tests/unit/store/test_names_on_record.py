"""Tests endpoints' names and networks' choice of names in records, and records without them."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from driver.errors import UnsupportedRecord
from driver.model import Endpoint, EndpointId, HostId, Network, NetworkId, NetworkKey, Vni
from driver.store.format import records

WEB = Endpoint(
    id=EndpointId("e" * 64), network_id=NetworkId("n" * 64), vni=Vni(7), host=HostId("a" * 32),
    underlay=IPv4Address("198.18.0.1"), mac=bytes(6), address=IPv4Interface("10.32.0.2/16"),
    address6=None, port=61000, names=("web", "8b1f6c2a9d3e", "www"))
NETWORK = Network(NetworkId("n" * 64), NetworkKey("pool:10.32.0.0/16"), Vni(7), ("10.32.0.0/16",))


def read(fields: dict[str, Any]) -> Endpoint:
    return records.parse("key", records.encode(fields), records.endpoint)


def test_names_are_on_both_records() -> None:
    for fields in (records.shared_endpoint_fields(WEB), records.local_endpoint_fields(WEB)):
        assert fields["names"] == ["web", "8b1f6c2a9d3e", "www"]
        assert read(fields) == WEB
    nameless = replace(WEB, names=())
    for fields in (records.shared_endpoint_fields(nameless),
                   records.local_endpoint_fields(nameless)):
        assert fields["names"] == []
        assert read(fields) == nameless


def test_an_older_drivers_record_has_none() -> None:
    for fields in (records.shared_endpoint_fields(WEB), records.local_endpoint_fields(WEB)):
        del fields["names"]
        assert read(fields) == replace(WEB, names=())


def test_a_tombstone_has_none() -> None:
    fields = records.left_fields(WEB)
    assert "web" not in json.dumps(fields)
    assert records.left(fields) == replace(WEB, names=())


@pytest.mark.parametrize("names", [[7], [None], [["web"]], ["web", 7], [""], ["w" * 254, "web"]])
def test_what_is_no_name_is_left_out(names: list[object]) -> None:
    for fields in (records.shared_endpoint_fields(WEB), records.local_endpoint_fields(WEB)):
        assert read({**fields, "names": names}) == replace(
            WEB, names=("web",) if "web" in names else ())


@pytest.mark.parametrize("names", ["web", None, 7, True, {"web": 1}])
def test_names_that_are_no_list(names: object) -> None:
    for fields in (records.shared_endpoint_fields(WEB), records.local_endpoint_fields(WEB)):
        with pytest.raises(UnsupportedRecord, match="cannot be read"):
            read({**fields, "names": names})


@pytest.mark.parametrize("names", [True, False])
def test_a_networks_choice(names: bool) -> None:
    made = replace(NETWORK, names=names)
    fields = records.network_fields(made)
    assert fields["names"] is names
    assert records.parse("key", records.encode(fields), records.network) == made


def test_an_older_drivers_network_has_names() -> None:
    fields = records.network_fields(replace(NETWORK, names=False))
    del fields["names"]
    assert records.parse("key", records.encode(fields), records.network) == NETWORK
