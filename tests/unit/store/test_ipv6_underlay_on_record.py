"""Tests underlay addresses of IPv6 in records, and how drivers that know none take them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Any

import pytest

from driver.errors import UnsupportedRecord
from driver.model import Endpoint, EndpointId, Host, HostId, KnownHost, NetworkId, Vni
from driver.services.ports import Answer
from driver.store.format import keys, records

U = IPv6Address("2001:db8::5")
HERE = Host(HostId("a" * 32), "web-1", U, answers_probes=True)
WEB = Endpoint(
    id=EndpointId("e" * 64), network_id=NetworkId("n" * 64), vni=Vni(7), host=HERE.id,
    underlay=U, mac=bytes(6), address=IPv4Interface("10.32.0.2/16"), address6=None, port=0)


def test_they_come_back() -> None:
    assert records.host(records.host_fields(HERE)) == HERE
    assert records.underlay(records.underlay_fields(HERE)).underlay == U
    assert records.known(records.known_fields(KnownHost(HERE, 60))) == KnownHost(HERE, 60)
    assert records.answer(records.answer_fields(Answer(9, U))) == Answer(9, U)
    for fields in (records.shared_endpoint_fields(WEB), records.local_endpoint_fields(WEB)):
        assert records.endpoint(fields) == WEB
    assert records.left(records.left_fields(WEB)) == WEB
    assert keys.underlay(U) == "/slim/v1/underlays/2001:db8::5"


@pytest.mark.parametrize("text", ["fe80::1", "::ffff:10.0.0.1", "::", "ff02::1", "fd00::1%eth0", 5,
                                  None, "2001:db8::5/64"])
def test_what_no_host_can_have_is_not_read(text: object) -> None:
    for build, fields in ((records.host, records.host_fields(HERE)),
                          (records.endpoint, records.shared_endpoint_fields(WEB))):
        spoilt: dict[str, Any] = {**fields, "underlay": text}
        with pytest.raises(UnsupportedRecord, match="cannot be read"):
            records.parse("key", records.encode(spoilt), build)


def test_a_driver_that_knows_ipv4_only_cannot_read_it() -> None:
    """It read the field in this way, and left such a record alone, by UnsupportedRecord."""
    for fields in (records.host_fields(HERE), records.shared_endpoint_fields(WEB),
                   records.underlay_fields(HERE)):
        with pytest.raises(ValueError, match="2001:db8::5"):
            IPv4Address(fields["underlay"])


def test_an_ipv4_address_is_written_as_before() -> None:
    fields = records.host_fields(replace(HERE, underlay=IPv4Address("192.0.2.1")))
    assert fields["underlay"] == "192.0.2.1"
