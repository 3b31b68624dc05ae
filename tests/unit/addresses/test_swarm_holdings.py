"""Tests entering again a swarm's pools, gateways and vips that etcd has lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest

from driver.errors import EngineUnavailable, StoreUnavailable
from driver.ipam.allocation import IpAddress
from driver.model import GLOBAL_HOLDER, Hold, HoldKind, NetworkId, Reservation
from driver.services.ports import SwarmPool, SwarmUses, Versioned
from driver.services.swarm.holdings import CHECK_S, RETRY_S, WHOLE_S, SwarmHoldings
from driver.store.address_book import EtcdAddressBook
from driver.store.format import keys
from driver.store.kv.protocol import Delete, Put
from driver.work.shown import NAMED
from tests.support.fakes.kv import FakeKeyValue, FaultyKeyValue
from tests.support.fakes.later import InlineLaters
from tests.support.run.wait import wait_until
from tests.support.world.addressing import GATEWAY, service
from tests.unit.addresses.test_addresses import everything, get, live_endpoint
from tests.unit.addresses.test_faults import from_then_on, once
from tests.unit.addresses.test_swarm_pools import SUBNET, SUBNET6, SwarmNetwork

SWARM = "swarm-id"
AFTER_S = 300.0
APP, DATA = NetworkId("a" * 25), NetworkId("d" * 25)
POOL = f"slim-global/{SUBNET}"
VIP = "10.32.0.9"


class FakeUsers:
    """Answers for Docker; after an answer it runs an act of `meanwhile`, each once."""

    def __init__(self) -> None:
        self.pools: list[SwarmPool] = []
        self.vips: dict[tuple[str, IpAddress], str] = {}
        self.looks = 0
        self.error: Exception | None = None
        self.meanwhile: list[Callable[[], None]] = []

    def look(self) -> SwarmUses:
        self.looks += 1
        if self.error is not None:
            raise self.error
        said = SwarmUses(tuple(self.pools), dict(self.vips))
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return said


@dataclass
class Swarm:
    """A swarm with two networks, one of them with two services; `docker` makes Docker's calls."""

    kv: FakeKeyValue = field(default_factory=FakeKeyValue)

    def __post_init__(self) -> None:
        self.users = FakeUsers()
        self.docker = service(self.kv)
        self.now_s = 1000.0
        self.faulty = FaultyKeyValue(self.kv, lambda _: "")
        self.vips: list[str] = []
        self.leads = SWARM  # what this manager leads
        self.restart()

    def restart(self) -> None:
        self.driver = service(self.faulty, 3)
        self.laters = InlineLaters()
        self.holdings = self.made(later=self.laters)

    def made(self, **others: Any) -> SwarmHoldings:
        return SwarmHoldings(
            book=EtcdAddressBook(self.faulty), users=self.users, leads=lambda: self.leads,
            release_pool=self.driver.withdraw_swarm_request, request_id=iter(
                map(str, range(9999))).__next__, after_s=AFTER_S, clock=lambda: self.now_s,
            **others)

    def create(self, network: SwarmNetwork) -> None:
        network.allocate(self.docker)
        self.users.pools += [SwarmPool(
            network.id, f"name-{network.id[0]}", subnet, network.ip_range,
            ip_address("fd00:32::" if ":" in subnet else subnet.replace(".0/24", ".1")))
            for subnet in network.subnets]

    def serve(self, name: str, address: str = "") -> str:
        given = get(self.docker, POOL, address)
        self.users.vips[SUBNET, ip_address(given)] = name
        return given

    def remove(self, network: SwarmNetwork) -> None:
        """Remove as Docker does: the object first."""
        self.forget(network)
        network.free(self.docker)

    def forget(self, network: SwarmNetwork) -> None:
        self.users.pools = [each for each in self.users.pools if each.network_id != network.id]

    def stop(self, address: str) -> None:
        del self.users.vips[SUBNET, ip_address(address)]
        self.docker.release_address(POOL, address)

    def wipe(self, *which: str) -> None:
        found = [key for key in everything(self.kv) if not which or key in which]
        assert found
        self.kv.commit([], [Delete(key) for key in found])

    def look(self, after_s: float = 0.0) -> float:
        self.now_s += after_s
        return self.holdings.run(SWARM)

    def uses(self, cidr: str = SUBNET) -> dict[str, set[str]]:
        """Return the networks that hold a pool, by their sub-pool."""
        use = EtcdAddressBook(self.kv).subnet(cidr).value
        return {pool.sub_pool: set(pool.requests.get("swarm", ())) for pool in use.pools
                if pool.space == "slim-global"} if use is not None else {}

    def held(self, cidr: str = SUBNET) -> dict[str, HoldKind]:
        return {str(each.value.address): each.value.holds[GLOBAL_HOLDER].kind
                for each in EtcdAddressBook(self.kv).reservations(cidr)
                if each.value is not None and GLOBAL_HOLDER in each.value.holds}


NET = SwarmNetwork(APP)
SAME = SwarmNetwork(DATA)  # another one with the same subnet
OTHER = SwarmNetwork(DATA, ("10.33.0.0/24",))


@pytest.fixture
def swarm() -> Swarm:
    """A network with a service, whose records are complete."""
    made = Swarm()
    made.create(NET)
    made.serve("web", VIP)
    return made


ALL_HELD = {"10.32.0.1": HoldKind.GATEWAY, VIP: HoldKind.DYNAMIC}


@pytest.mark.parametrize("network", [
    OTHER, SAME, SwarmNetwork(DATA, ("10.33.0.0/24",), "10.33.0.128/25"),
    SwarmNetwork(DATA, ("10.33.0.0/24", SUBNET6))], ids=["other", "same", "range", "two"])
def test_all_is_lost_and_entered_and_goes_with_docker(swarm: Swarm, network: SwarmNetwork) -> None:
    swarm.create(network)
    swarm.wipe()
    assert swarm.look() == CHECK_S
    assert swarm.uses()[""] >= {APP}
    assert swarm.held() == ALL_HELD
    for subnet in network.subnets:
        assert DATA in swarm.uses(subnet)[network.ip_range]
        assert HoldKind.GATEWAY in swarm.held(subnet).values()
    # Nothing is assigned twice, and Docker gets again what it has.
    assert get(swarm.docker, POOL) not in ALL_HELD
    assert get(swarm.docker, POOL, **GATEWAY) == "10.32.0.1"
    assert get(swarm.docker, POOL, VIP) == VIP
    swarm.stop(VIP)
    swarm.remove(network)
    swarm.remove(NET)
    assert everything(swarm.kv) == []


def test_nothing_is_written_and_little_is_read_where_nothing_lacks(swarm: Swarm) -> None:
    swarm.create(OTHER)
    before = swarm.kv.range(keys.ROOT).revision
    swarm.look()
    swarm.users.looks = swarm.faulty.calls = 0
    assert swarm.look(CHECK_S) == CHECK_S
    assert (swarm.users.looks, swarm.faulty.calls) == (1, 2 * 2), "two for each subnet"
    swarm.look(WHOLE_S)
    assert swarm.kv.range(keys.ROOT).revision == before
    assert swarm.holdings.describe() == ""


PARTS = {"pool": keys.subnet(SUBNET), "gateway": keys.address(SUBNET, IPv4Address("10.32.0.1")),
         "service": keys.address(SUBNET, IPv4Address(VIP))}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_may_be_lost(swarm: Swarm, part: str) -> None:
    swarm.look()
    swarm.wipe(PARTS[part])
    swarm.look(CHECK_S)
    assert (swarm.uses(), set(swarm.held())) == ({"": {APP}}, set(ALL_HELD))
    use = EtcdAddressBook(swarm.kv).subnet(SUBNET).value
    assert use is not None
    assert use.gateway == ip_address("10.32.0.1")
    swarm.stop(VIP)
    swarm.remove(NET)
    assert everything(swarm.kv) == []


def test_a_node_that_knew_no_sub_pool_has_entered_the_network(swarm: Swarm) -> None:
    swarm.create(SwarmNetwork(DATA, ("10.33.0.0/24",), "10.33.0.128/25"))
    swarm.wipe()
    book = EtcdAddressBook(swarm.kv)
    swarm.look()
    before = book.subnet("10.33.0.0/24")
    assert before.value is not None
    [pool] = before.value.pools
    assert book.write_subnet("10.33.0.0/24", before, replace(
        before.value, pools=(replace(pool, sub_pool=""),), entered={}))
    swarm.look(CHECK_S)
    assert swarm.uses("10.33.0.0/24") == {"10.33.0.128/25": {DATA}}


def test_other_holders_of_the_gateway_are_not_in_the_way(swarm: Swarm) -> None:
    swarm.wipe()
    node = service(swarm.kv, 2)
    local = node.request_pool("slim-local", SUBNET, "", v6=False, options={}).pool_id
    assert get(node, local, **GATEWAY) == "10.32.0.1"
    swarm.look()
    assert swarm.held() == ALL_HELD
    assert swarm.holdings.describe() == ""
    swarm.stop(VIP)
    swarm.remove(NET)
    node.release_address(local, "10.32.0.1")
    node.release_pool(local)
    assert everything(swarm.kv) == []


# Obstacles.

def given_to_a_container(swarm: Swarm, address: str) -> None:
    node = service(swarm.kv, 2)
    pool = node.request_pool("slim-local", SUBNET, "", v6=False, options={}).pool_id
    assert get(node, pool, address) == address


def bound(swarm: Swarm, address: str) -> None:
    live_endpoint(swarm.kv, 2, address)


def given_by_the_managers(swarm: Swarm, address: str) -> None:
    pool = swarm.docker.request_pool("slim-global", SUBNET, "", v6=False, options={}).pool_id
    assert get(swarm.docker, pool, address) == address


def another_gateway(swarm: Swarm, _address: str) -> None:
    node = service(swarm.kv, 2)
    pool = node.request_pool("slim-local", SUBNET, "", v6=False, options={}).pool_id
    assert get(node, pool, "10.32.0.77", **GATEWAY) == "10.32.0.77"


@pytest.mark.parametrize(("act", "address", "says"), [
    (given_to_a_container, VIP, f"address {VIP} of service web .* held by 000000000000 .exact"),
    (bound, VIP, f"address {VIP} of service web .* endpoint eeeeeeeeeeee has it"),
    (bound, "10.32.0.1", "gateway 10.32.0.1 of swarm network name-a .* endpoint eeeeeeeeeeee"),
    (given_by_the_managers, "10.32.0.1", "gateway 10.32.0.1 .* held by global .exact"),
    (another_gateway, "10.32.0.1", "gateway 10.32.0.1 .* the subnet's gateway is 10.32.0.77")])
def test_what_somebody_else_has_by_now_is_left_and_named(
        swarm: Swarm, caplog: pytest.LogCaptureFixture, act: Callable[[Swarm, str], None],
        address: str, says: str) -> None:
    swarm.wipe()
    act(swarm, address)
    key = keys.address(SUBNET, ip_address(address))
    before = swarm.kv.get(key)
    for _ in range(3):
        swarm.look(CHECK_S)
    assert swarm.kv.get(key) == before
    assert re.search(says, swarm.holdings.describe()), swarm.holdings.describe()
    assert sum(bool(re.search(says, line)) for line in caplog.messages) == 1
    assert APP in swarm.uses()[""], "the rest is entered"
    assert set(ALL_HELD) - {address} <= set(swarm.held())


def test_a_doubt_ends_when_it_is_settled(swarm: Swarm) -> None:
    swarm.wipe()
    given_to_a_container(swarm, VIP)
    swarm.look()
    assert VIP in swarm.holdings.describe()
    service(swarm.kv, 2).release_address(f"slim-local/{SUBNET}", VIP)
    swarm.look(CHECK_S)
    assert swarm.holdings.describe() == ""
    assert swarm.held() == ALL_HELD


def test_a_doubt_that_no_key_shows_ends_when_it_is_settled(swarm: Swarm) -> None:
    endpoints = live_endpoint(swarm.kv, 2, VIP)
    for _ in range(2):
        swarm.look(CHECK_S)
        assert VIP in swarm.holdings.describe()
    endpoints.delete(endpoints.list()[0].id)
    swarm.look(CHECK_S)
    assert swarm.holdings.describe() == ""


def test_a_pool_that_docker_requests_again_meanwhile(swarm: Swarm) -> None:
    swarm.wipe()
    swarm.users.meanwhile = [lambda: None, lambda: NET.allocate(swarm.docker)]
    swarm.look()
    assert swarm.holdings.describe() == ""
    assert swarm.held() == ALL_HELD
    swarm.stop(VIP)
    swarm.remove(NET)
    assert everything(swarm.kv) == []


def test_a_gateway_that_only_the_pool_has_lost(swarm: Swarm) -> None:
    swarm.look()
    book = EtcdAddressBook(swarm.kv)
    before = book.subnet(SUBNET)
    assert before.value is not None
    assert book.write_subnet(SUBNET, before, replace(before.value, gateway=None))
    swarm.look(CHECK_S)
    assert book.subnet(SUBNET).value == before.value


def test_a_pool_that_overlaps_another_one_by_now(swarm: Swarm) -> None:
    swarm.wipe()
    service(swarm.kv, 2).request_pool("slim-local", "10.32.0.0/16", "", v6=False, options={})
    before = everything(swarm.kv)
    swarm.look()
    assert everything(swarm.kv) == before
    assert "pool 10.32.0.0/24 of swarm network name-a is not on record: it overlaps 10.32.0.0/16" \
        in swarm.holdings.describe()


@pytest.mark.parametrize("kind", ["subnet", "address"])
def test_a_record_that_cannot_be_read_keeps_no_other_subnet(swarm: Swarm, kind: str) -> None:
    swarm.create(OTHER)
    swarm.look()
    key = PARTS["pool" if kind == "subnet" else "service"]
    swarm.wipe(keys.subnet("10.33.0.0/24"))
    assert swarm.kv.commit([], [Put(key, b'{"schema": 99}')])
    for _ in range(2):
        swarm.look(CHECK_S)
    assert swarm.uses("10.33.0.0/24") == {"": {DATA}}
    assert f"pool {SUBNET} of the swarm" in swarm.holdings.describe()


def test_many_doubts_are_counted(swarm: Swarm) -> None:
    addresses = [swarm.serve(f"more-{number}") for number in range(NAMED + 1)]
    swarm.wipe()
    for address in addresses:
        given_to_a_container(swarm, address)
    swarm.look()
    assert swarm.holdings.describe().endswith("; 1 more")


# Docker first removes the network or service, and then releases, only once.

def removed(swarm: Swarm) -> None:
    swarm.stop(VIP)
    swarm.remove(NET)


def test_what_is_released_before_docker_is_asked_again_is_not_entered(swarm: Swarm) -> None:
    swarm.wipe()
    swarm.users.meanwhile = [lambda: removed(swarm)]
    swarm.look()
    assert everything(swarm.kv) == []


def forgotten(swarm: Swarm) -> None:
    """Remove right after Docker's answer: the releases find nothing, and come only once."""
    swarm.users.meanwhile = [lambda: None, lambda: removed(swarm)]
    swarm.wipe()
    swarm.look()
    assert swarm.held() == ALL_HELD


@pytest.mark.parametrize("killed", [False, True])
def test_what_is_released_before_the_write_goes_when_docker_has_long_not_known_of_it(
        swarm: Swarm, killed: bool) -> None:
    forgotten(swarm)
    if killed:
        swarm.restart()
    pause_s = swarm.look(CHECK_S)
    assert 0 < pause_s <= CHECK_S
    swarm.look(AFTER_S - 1)
    assert swarm.held() == ALL_HELD, "a release may be still to come"
    swarm.look(1)
    assert everything(swarm.kv) == []
    assert swarm.look(CHECK_S) == CHECK_S


def test_a_manager_before_that_was_frozen_writes_late(swarm: Swarm) -> None:
    """This manager's looks have no reason to expect that."""
    swarm.look()
    assert swarm.look(CHECK_S) == CHECK_S
    book, address = EtcdAddressBook(swarm.kv), ip_address("10.32.0.99")
    assert book.write_reservation(
        book.subnet(SUBNET), SUBNET, Versioned(None, 0), Reservation(address).held(
            GLOBAL_HOLDER, Hold(HoldKind.DYNAMIC, f"swarm:{SWARM}", "late")))
    swarm.look(CHECK_S)
    swarm.look(WHOLE_S)
    swarm.look(AFTER_S)
    assert book.reservation(SUBNET, address).value is None
    assert set(swarm.held()) == set(ALL_HELD)


def test_the_release_comes_late(swarm: Swarm) -> None:
    swarm.wipe()
    swarm.users.meanwhile = [lambda: None, lambda: (
        swarm.forget(NET), swarm.users.vips.clear())[0]]
    swarm.look()
    swarm.look(CHECK_S)
    swarm.docker.release_address(POOL, VIP)
    NET.free(swarm.docker)
    assert everything(swarm.kv) == []
    swarm.look(AFTER_S)
    assert everything(swarm.kv) == []


def test_a_network_of_the_same_subnet_that_comes_meanwhile_keeps_all_of_it(swarm: Swarm) -> None:
    forgotten(swarm)
    swarm.create(SAME)
    assert swarm.serve("again", VIP) == VIP
    for _ in range(2):
        swarm.look(AFTER_S)
    assert (swarm.uses(), swarm.held()) == ({"": {DATA}}, ALL_HELD)
    swarm.stop(VIP)
    swarm.remove(SAME)
    assert everything(swarm.kv) == []


def test_a_container_that_has_such_an_address_keeps_it(swarm: Swarm) -> None:
    """The manager requested it by value: it is held, and does not say for whom."""
    swarm.wipe()
    swarm.users.meanwhile = [lambda: None, lambda: swarm.stop(VIP)]
    swarm.look()
    assert get(swarm.docker, POOL, VIP) == VIP
    live_endpoint(swarm.kv, 2, VIP)
    for _ in range(3):
        swarm.look(AFTER_S)
    assert swarm.held() == ALL_HELD


def test_another_swarms_are_left_alone(swarm: Swarm) -> None:
    forgotten(swarm)
    before = everything(swarm.kv)
    for _ in range(3):
        swarm.now_s += AFTER_S
        swarm.holdings.run("another swarm")
    assert everything(swarm.kv) == before


def test_what_nobody_entered_is_never_taken(swarm: Swarm) -> None:
    swarm.users.pools.clear()
    swarm.users.vips.clear()
    before = everything(swarm.kv)
    for _ in range(3):
        swarm.look(AFTER_S)
    assert everything(swarm.kv) == before


# Faults.

@pytest.mark.parametrize("outage", [once, from_then_on])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("then", ["goes on", "gone"])
def test_every_step_may_fail(when: str, outage: Callable[[int, str], Callable[[int], str]],
                             then: str) -> None:
    for k in range(1, 200):
        swarm = Swarm()
        swarm.create(NET)
        swarm.create(OTHER)
        swarm.serve("web", VIP)
        swarm.wipe()
        swarm.faulty.calls = 0
        swarm.faulty.fails = outage(k, when)
        reached = True
        try:
            swarm.look()
        except StoreUnavailable:
            swarm.restart()  # the driver then dies
        else:
            reached = swarm.faulty.calls >= k
        swarm.faulty.fails = lambda _: ""
        if then == "gone":  # Docker's releases are lost, or found nothing to release
            for network in (NET, OTHER):
                swarm.forget(network)
            swarm.users.vips.clear()
            for _ in range(2):
                swarm.look(AFTER_S)
        else:
            swarm.look()
            assert swarm.held() == ALL_HELD, f"fault at call {k}"
            swarm.stop(VIP)
            swarm.remove(NET)
            swarm.remove(OTHER)
        assert everything(swarm.kv) == [], f"fault at call {k}"
        if not reached:
            return
    raise AssertionError("the look never ends")


def test_a_removal_that_fails_is_tried_again(swarm: Swarm) -> None:
    forgotten(swarm)
    swarm.look(CHECK_S)
    for k in range(1, 100):
        swarm.faulty.calls = 0
        swarm.faulty.fails = once(k, "before")
        try:
            swarm.look(AFTER_S)
        except StoreUnavailable:
            continue
        if swarm.faulty.calls < k:
            break
    swarm.faulty.fails = lambda _: ""
    assert everything(swarm.kv) == []


# When it looks.

def test_it_looks_when_it_leads_and_is_asked(swarm: Swarm, caplog: pytest.LogCaptureFixture
                                             ) -> None:
    swarm.leads = ""
    swarm.wipe()
    holdings = swarm.made()
    holdings.start()
    try:
        holdings.ask()
        swarm.leads = SWARM
        swarm.users.error = EngineUnavailable("dockerd is away")
        holdings.ask()
        wait_until(lambda: swarm.users.looks, 30, "it has asked")
        assert everything(swarm.kv) == []
        swarm.users.error = None
        holdings.ask()
        wait_until(lambda: swarm.held() == ALL_HELD, 30, "all is entered")
    finally:
        holdings.stop()


def test_what_fails_is_tried_again_and_who_leads_no_more_says_nothing(swarm: Swarm) -> None:
    later, = swarm.laters.made.values()
    swarm.wipe()
    given_to_a_container(swarm, VIP)
    swarm.users.error = EngineUnavailable("dockerd is away")
    swarm.holdings.ask()
    later.pump()
    assert later.delays == [0.0, RETRY_S]
    swarm.users.error = None
    swarm.faulty.calls, swarm.faulty.fails = 0, once(1, "before")
    later.pump()
    assert later.delays == [0.0, RETRY_S, RETRY_S]
    later.pump()
    assert later.delays == [0.0, RETRY_S, RETRY_S, CHECK_S]
    assert swarm.holdings.describe() != ""
    swarm.leads = ""
    later.pump()
    assert swarm.holdings.describe() == ""
    assert not later.pump(), "it does not look again by itself"


def test_after_one_that_failed_all_is_looked_at(swarm: Swarm) -> None:
    swarm.look()
    live_endpoint(swarm.kv, 2, VIP)
    swarm.holdings.ask()
    swarm.faulty.calls, swarm.faulty.fails = 0, once(1, "before")
    for _ in range(2):
        swarm.laters.pump()
    assert VIP in swarm.holdings.describe()
