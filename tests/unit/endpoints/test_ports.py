"""Endpoint ports: least recently used first, restored from records, never twice."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface

import pytest

from driver.errors import Exhausted, StoreUnavailable
from driver.model import Endpoint, EndpointId, NetworkId, Vni
from driver.services.endpoints.ports import EndpointPorts
from tests.support.fakes.ports import HOST


def endpoint(name: str, port: int) -> Endpoint:
    return Endpoint(EndpointId(name), NetworkId("n"), Vni(1), HOST.id, HOST.underlay, bytes(6),
                    IPv4Interface("10.50.0.2/16"), None, port)


def test_least_recently_used_first() -> None:
    ports = EndpointPorts(61000, 61002)
    assert [ports.request(EndpointId(name)) for name in "abc"] == [61000, 61001, 61002]
    ports.release(EndpointId("b"))
    ports.release(EndpointId("a"))
    assert [ports.request(EndpointId(name)) for name in "de"] == [61001, 61000]


def test_asking_twice_and_releasing_twice() -> None:
    ports = EndpointPorts(61000, 61001)
    assert ports.request(EndpointId("a")) == ports.request(EndpointId("a")) == 61000
    ports.release(EndpointId("a"))
    ports.release(EndpointId("a"))
    assert ports.in_use() == 0
    assert {ports.request(EndpointId(name)) for name in "bc"} == {61000, 61001}


def test_exhausted_says_what_to_do() -> None:
    ports = EndpointPorts(61000, 61000)
    ports.request(EndpointId("a"))
    with pytest.raises(Exhausted, match="--port-range"):
        ports.request(EndpointId("b"))


def test_restored_ports_are_not_given_out() -> None:
    ports = EndpointPorts(61000, 61002)
    ports.restore([endpoint("a", 61000), endpoint("b", 50000), endpoint("c", 0)])
    assert [ports.request(EndpointId(name)) for name in "de"] == [61001, 61002]
    assert ports.request(EndpointId("a")) == 61000
    ports.release(EndpointId("b"))  # of an earlier range: not given out again
    with pytest.raises(Exhausted):
        ports.request(EndpointId("f"))


def test_nothing_is_given_out_before_the_records_were_read() -> None:
    ports = EndpointPorts(61000, 61002)
    reads = []

    def away() -> list[Endpoint]:
        raise StoreUnavailable("away")

    def there() -> list[Endpoint]:
        reads.append(1)
        return [endpoint("a", 61000)]

    with pytest.raises(StoreUnavailable):
        ports.restore_once(away)
    ports.restore_once(there)
    ports.restore_once(there)
    assert len(reads) == 1
    assert ports.request(EndpointId("b")) == 61001


def test_a_caller_whose_reading_took_longer_restores_nothing_outdated() -> None:
    """The first one's endpoint has gone since: its port is free, and stays so."""
    ports = EndpointPorts(61000, 61000)

    def slow() -> list[Endpoint]:
        ports.restore_once(lambda: [endpoint("a", 61000)])
        ports.release(EndpointId("a"))
        return [endpoint("a", 61000)]

    ports.restore_once(slow)
    assert ports.request(EndpointId("b")) == 61000


def test_a_port_with_two_records_is_free_when_both_are_gone() -> None:
    ports = EndpointPorts(61000, 61000)
    one = endpoint("a", 61000)
    ports.restore([one, replace(one, id=EndpointId("b"))])
    ports.release(one.id)
    with pytest.raises(Exhausted):
        ports.request(EndpointId("c"))
    ports.release(EndpointId("b"))
    assert ports.request(EndpointId("c")) == 61000
