"""Endpoints carry the sandbox that they are joined to; their records need not say it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from driver.errors import NotFound, StoreUnavailable
from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.endpoints.joins import JoinedEndpoints
from tests.support.fakes.kernel import Kernel, KernelJoins
from tests.support.fakes.ports import FakeEndpoints, Faults

ONE = Endpoint(
    id=EndpointId("1e" * 32), network_id=NetworkId("n"), vni=Vni(7), host=HostId("h"),
    underlay=IPv4Address("198.18.0.1"), mac=b"\2\0\0\0\0\1",
    address=IPv4Interface("10.32.0.2/16"), address6=None, port=61000)
JOINED = replace(ONE, sandbox_key="/var/run/docker/netns/4f0a1b2c3d4e")


class Here:
    """A host; `again` makes its next driver's view."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.records = FakeEndpoints(self.faults)
        self.kernel = Kernel()
        self.again()

    def again(self) -> None:
        self.endpoints = JoinedEndpoints(self.records, KernelJoins(self.kernel))


@pytest.fixture
def here() -> Here:
    made = Here()
    made.endpoints.create(ONE)
    return made


def test_join_and_leave_write_no_record(here: Here) -> None:
    here.faults.reset()
    for endpoint in (JOINED, ONE):
        here.endpoints.replace(endpoint)
        here.again()
        assert here.endpoints.get(ONE.id) == endpoint
        assert here.endpoints.list() == [endpoint]
        assert here.endpoints.on_record() == [endpoint]
        assert here.records.live == {ONE.id: ONE}
    assert here.faults.done == []
    assert here.kernel.joins == {}


def test_what_others_see_is_written_without_the_sandbox(here: Here) -> None:
    here.endpoints.replace(replace(JOINED, port=61001))
    assert here.records.live == {ONE.id: replace(ONE, port=61001)}
    assert here.endpoints.get(ONE.id) == replace(JOINED, port=61001)


def test_a_record_of_a_driver_before_is_believed_until_it_changes(here: Here) -> None:
    here.records.live[ONE.id] = JOINED
    here.again()
    assert here.endpoints.get(ONE.id) == JOINED
    here.endpoints.replace(replace(JOINED, port=0))
    assert here.records.live == {ONE.id: replace(ONE, port=0)}
    assert here.endpoints.get(ONE.id) == replace(JOINED, port=0)
    here.records.live[ONE.id] = JOINED
    here.endpoints.replace(ONE)
    assert here.endpoints.get(ONE.id) == ONE


def test_the_sandbox_goes_with_the_record(here: Here) -> None:
    here.endpoints.replace(JOINED)
    here.endpoints.delete(ONE.id)
    assert here.kernel.joins == {}
    assert not here.records.live


def test_the_sandbox_goes_though_the_record_does_not(here: Here) -> None:
    here.endpoints.replace(JOINED)
    here.faults.reset()
    here.faults.fail_at, here.faults.error = 1, StoreUnavailable
    with pytest.raises(StoreUnavailable):
        here.endpoints.delete(ONE.id)
    assert here.kernel.joins == {}
    assert here.endpoints.list() == [ONE]


def test_what_does_not_exist_is_not_joined(here: Here) -> None:
    with pytest.raises(NotFound):
        here.endpoints.replace(replace(JOINED, id=EndpointId("2e" * 32)))
    assert here.kernel.joins == {}


def test_who_is_entered_again_is_still_joined(here: Here) -> None:
    here.endpoints.replace(JOINED)
    here.records.live.clear()  # others have removed it
    here.endpoints.create(JOINED)
    assert here.endpoints.list() == [JOINED]
    assert here.records.live == {ONE.id: ONE}


def test_strays_are_forgotten(here: Here) -> None:
    here.endpoints.replace(JOINED)
    here.endpoints.forget_strays(lambda _: False)
    assert here.endpoints.get(ONE.id) == JOINED
    here.records.live.clear()
    here.endpoints.forget_strays(lambda endpoint_id: endpoint_id == ONE.id)
    assert here.kernel.joins  # nobody knows it, and it is alive
    here.endpoints.forget_strays(lambda _: False)
    assert here.kernel.joins == {}
