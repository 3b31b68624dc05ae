"""Tests pools of a swarm's networks: each new leader requests everything again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_network

import pytest

from driver.errors import Conflict, StoreUnavailable
from driver.model import NetworkId
from driver.services.addresses.service import AddressService
from driver.store.format import keys
from driver.store.kv.protocol import Put
from tests.support.fakes.kv import FakeKeyValue, FaultyKeyValue
from tests.support.world.addressing import GATEWAY, service
from tests.unit.addresses.test_addresses import everything, get
from tests.unit.addresses.test_faults import from_then_on, once

WEB, DATA = NetworkId("web"), NetworkId("data")
SUBNET, SUBNET6 = "10.32.0.0/24", "fd00:32::/64"


@dataclass(frozen=True)
class SwarmNetwork:
    """A network with its managers' calls, in their order."""

    id: NetworkId
    subnets: tuple[str, ...] = (SUBNET,)
    ip_range: str = ""

    def request(self, leader: AddressService) -> None:
        for subnet in self.subnets:
            pool = leader.request_pool("slim-global", subnet, self.ip_range,
                                       v6=False, options={}).pool_id
            leader.request_address(pool, "", options=GATEWAY)

    def allocate(self, leader: AddressService) -> None:
        self.request(leader)
        leader.hold_pools(self.id, self.subnets)

    def release(self, leader: AddressService) -> None:
        for subnet in self.subnets:
            pool = "/".join(filter(None, ("slim-global", subnet, self.ip_range)))
            gateway = "fd00:32::" if ":" in subnet else "10.32.0.1"
            leader.release_address(pool, gateway)
            leader.release_pool(pool)

    def free(self, leader: AddressService) -> None:
        leader.let_pools_go(self.id)
        self.release(leader)


@pytest.fixture
def kv() -> FakeKeyValue:
    return FakeKeyValue()


@pytest.fixture
def leaders(kv: FakeKeyValue) -> list[AddressService]:
    return [service(kv, number) for number in (1, 2, 3)]


@pytest.mark.parametrize("network", [
    SwarmNetwork(WEB), SwarmNetwork(WEB, ip_range="10.32.0.128/25"),
    SwarmNetwork(WEB, (SUBNET, SUBNET6))], ids=["plain", "range", "two subnets"])
def test_after_changes_of_leader_one_release_is_enough(
        kv: FakeKeyValue, leaders: list[AddressService], network: SwarmNetwork) -> None:
    for leader in (*leaders, leaders[0], leaders[0]):
        network.allocate(leader)
        network_pool = "/".join(filter(None, ("slim-global", SUBNET, network.ip_range)))
        assert get(leader, network_pool, "10.32.0.200") == "10.32.0.200"  # a task's, every time
    network.free(leaders[1])
    assert everything(kv) == []


def test_two_networks_of_one_subnet_end_one_by_one(
        kv: FakeKeyValue, leaders: list[AddressService]) -> None:
    """When the first ends, the other keeps gateway, pool and tasks' addresses."""
    networks = [SwarmNetwork(WEB), SwarmNetwork(DATA)]
    for leader in leaders:
        for network in networks:
            network.allocate(leader)
    pool = f"slim-global/{SUBNET}"
    task = get(leaders[2], pool)
    networks[0].free(leaders[2])
    assert get(leaders[2], pool, task) == task
    assert get(leaders[2], pool, **GATEWAY) == "10.32.0.1"
    networks[1].free(leaders[2])
    assert everything(kv) == []


def test_a_network_that_could_not_be_allocated(
        kv: FakeKeyValue, leaders: list[AddressService]) -> None:
    """If its options are refused, say, the manager releases what it requested."""
    SwarmNetwork(WEB).allocate(leaders[0])
    SwarmNetwork(DATA).request(leaders[0])
    SwarmNetwork(DATA).release(leaders[0])
    assert get(leaders[0], f"slim-global/{SUBNET}")
    SwarmNetwork(WEB).free(leaders[0])
    assert everything(kv) == []


def test_a_manager_that_was_killed_before_the_allocation(
        kv: FakeKeyValue, leaders: list[AddressService]) -> None:
    SwarmNetwork(WEB).request(leaders[0])
    SwarmNetwork(WEB).allocate(leaders[0])
    SwarmNetwork(WEB).free(leaders[0])
    assert everything(kv) == []


def test_another_drivers_addresses_are_not_touched(
        kv: FakeKeyValue, leaders: list[AddressService]) -> None:
    local = leaders[0].request_pool("slim-local", SUBNET, "", v6=False, options={}).pool_id
    before = everything(kv)
    leaders[0].hold_pools(WEB, (SUBNET, "10.99.0.0/16"))
    leaders[0].let_pools_go(WEB)
    assert everything(kv) == before
    leaders[0].release_pool(local)
    assert everything(kv) == []


@pytest.mark.parametrize("outage", [once, from_then_on])
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_step_of_a_networks_life_may_fail(
        when: str, outage: Callable[[int, str], Callable[[int], str]]) -> None:
    """A manager retries a network that failed, but releases one only once."""
    network = SwarmNetwork(WEB)
    for k in range(1, 100):
        kv = FakeKeyValue()
        faulty = FaultyKeyValue(kv, outage(k, when))
        leader = service(faulty)
        try:
            network.allocate(leader)
        except StoreUnavailable:
            faulty.fails = lambda _: ""
            network.release(leader)
            network.allocate(leader)
        network.allocate(service(kv, 2))  # it leads for a while
        leader.let_pools_go(WEB)
        with suppress(StoreUnavailable):
            leader.release_address(f"slim-global/{SUBNET}", "10.32.0.1")
        with suppress(StoreUnavailable):
            leader.release_pool(f"slim-global/{SUBNET}")
        reached = faulty.calls >= k
        faulty.fails = lambda _: ""
        leader.settle()
        assert everything(kv) == [], f"fault at call {k}"
        if not reached:
            return
    raise AssertionError("the life never ends")


def test_a_record_that_cannot_be_read_keeps_no_other_network(
        kv: FakeKeyValue, leaders: list[AddressService]) -> None:
    """FreeNetwork must not fail: the manager would release nothing."""
    foreign = keys.subnet("10.1.0.0/16")
    assert kv.commit([], [Put(foreign, b'{"schema": 99}')])
    SwarmNetwork(WEB).allocate(leaders[0])
    SwarmNetwork(WEB).free(leaders[0])
    assert set(everything(kv)) == {foreign, keys.SUBNET_GUARD}


def test_a_new_network_that_a_route_of_the_manager_overlaps(kv: FakeKeyValue) -> None:
    """It is refused; an existing one goes on, even under a leader that has the route."""
    one, two = service(kv, 1), service(kv, 2, routed=[ip_network("10.32.0.128/25")])
    web, data = SwarmNetwork(WEB), SwarmNetwork(DATA, ("fd00:99::/64", SUBNET))
    web.allocate(one)
    web.allocate(two)
    before = everything(kv)
    data.request(two)
    with pytest.raises(Conflict, match=r"10\.32\.0\.0/24 overlaps 10\.32\.0\.128/25, .* over eth9"):
        two.hold_pools(DATA, data.subnets)
    # The manager then does this.
    for subnet in data.subnets:
        two.release_pool(f"slim-global/{subnet}")
    assert everything(kv) == before
    web.allocate(two)
    assert everything(kv) == before
