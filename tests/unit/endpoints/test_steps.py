"""Every use case fails at every step: nothing is leaked, and the same call then succeeds."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Interface, ip_network

import pytest

from driver.errors import DatapathError, LinkError, SlimError, StoreUnavailable
from driver.model import EndpointId, NetworkId
from driver.services.endpoints.requests import EndpointRequest
from driver.services.networks.lifecycle import NetworkPool
from tests.support.fakes.ports import World

NET = NetworkId("8c1f0" * 5)  # a swarm's, whose services are followed, too
EP = EndpointId("0123456789abcdef" * 4)
EP2 = EndpointId("fedcba9876543210" * 4)
SANDBOX = "/var/run/docker/netns/4f0a1b2c3d4e"


def create_network(world: World) -> None:
    pool = NetworkPool("slim-local", ip_network("10.50.0.0/16"))
    world.network_service.create_network(NET, [pool], {}, internal=False)


def create_endpoint(world: World, endpoint_id: EndpointId = EP,
                    address: str = "10.50.0.7/16") -> None:
    world.endpoint_service.create_endpoint(
        EndpointRequest(endpoint_id, NET, IPv4Interface(address), None, None))


def join(world: World, endpoint_id: EndpointId = EP) -> None:
    world.endpoint_service.join(NET, endpoint_id, SANDBOX)


def nothing(world: World) -> None:
    pass


def second_endpoint(world: World) -> None:
    create_endpoint(world)
    join(world)
    create_endpoint(world, EP2, "10.50.0.8/16")
    join(world, EP2)


UseCase = Callable[[World], None]
# name: the calls before it, the use case, how many effects it has
FORWARD: dict[str, tuple[list[UseCase], UseCase, int]] = {
    "create_network": ([], create_network, 3),
    "create_endpoint": ([create_network], create_endpoint, 1),
    "join": ([create_network, create_endpoint], join, 4),
}
BACKWARD: dict[str, tuple[list[UseCase], UseCase, int]] = {
    "leave": ([create_network, create_endpoint, join],
              lambda world: world.endpoint_service.leave(NET, EP), 4),
    "delete_endpoint": ([create_network, create_endpoint, join],
                        lambda world: world.endpoint_service.delete_endpoint(NET, EP), 4),
    "delete_unknown_endpoint": ([create_network],
                                lambda world: world.endpoint_service.delete_endpoint(NET, EP), 2),
    "delete_network": ([create_network, second_endpoint],
                       lambda world: world.network_service.delete_network(NET), 11),
}
STEPS = [(name, step) for table in (FORWARD, BACKWARD) for name, (_, _, count) in table.items()
         for step in range(1, count + 1)]


def prepared(before: list[UseCase]) -> World:
    world = World()
    for call in before:
        call(world)
    world.faults.reset()
    return world


@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_the_tables_count_every_effect(name: str) -> None:
    before, call, count = {**FORWARD, **BACKWARD}[name]
    world = prepared(before)
    call(world)
    assert len(world.faults.done) == count, world.faults.done


@pytest.mark.parametrize("error", [StoreUnavailable, LinkError, DatapathError])
@pytest.mark.parametrize(("name", "step"), [item for item in STEPS if item[0] in FORWARD])
def test_a_failed_call_leaves_nothing_and_then_succeeds(name: str, step: int,
                                                        error: type[SlimError]) -> None:
    before, call, _ = FORWARD[name]
    world, wanted = prepared(before), prepared(before)
    call(wanted)
    start = world.live()
    world.faults.fail_at, world.faults.error = step, error
    with pytest.raises(error, match=f"injected at step {step}"):
        call(world)
    assert world.live() == start
    world.faults.reset()
    call(world)
    compare(world, wanted)


@pytest.mark.parametrize(("name", "step"), [item for item in STEPS if item[0] in BACKWARD])
def test_a_failed_removal_removes_all_else_and_then_the_rest(name: str, step: int) -> None:
    before, call, count = BACKWARD[name]
    world, wanted = prepared(before), prepared(before)
    call(wanted)
    world.faults.fail_at = step
    with pytest.raises(StoreUnavailable, match=f"injected at step {step}"):
        call(world)
    # All the other steps were tried although this one failed.
    assert len(world.faults.done) == count
    world.faults.reset()
    call(world)
    assert world.live() == wanted.live()


def compare(world: World, wanted: World) -> None:
    """Interface indexes and endpoint ports may differ: a failed attempt used one up."""
    got, want = world.live(), wanted.live()
    for state in (got, want):
        for field in ("endpoints", "expected"):
            state[field] = sorted(state[field])
    assert got == want


@pytest.mark.parametrize(("name", "step"), [item for item in STEPS if item[0] in FORWARD])
def test_the_outcome_is_unknown_after_a_time_out(name: str, step: int) -> None:
    """The effect happened though the call failed: the same call must still succeed."""
    before, call, _ = FORWARD[name]
    world, wanted = prepared(before), prepared(before)
    call(wanted)
    world.faults.fail_at, world.faults.after = step, True
    with pytest.raises(StoreUnavailable, match=f"injected after step {step}"):
        call(world)
    world.faults.reset()
    call(world)
    compare(world, wanted)


@pytest.mark.parametrize(("name", "step"), [item for item in STEPS if item[0] in
                                            ("delete_endpoint", "delete_network")])
def test_dockerd_does_not_ask_again_but_we_do(name: str, step: int) -> None:
    before, call, _ = BACKWARD[name]
    world, wanted = prepared(before), prepared(before)
    call(wanted)
    world.faults.fail_at = step
    with pytest.raises(StoreUnavailable):
        call(world)
    world.faults.reset()
    world.ledger.run()
    assert world.live() == wanted.live()
    world.faults.reset()
    world.ledger.run()
    assert world.faults.done == []  # nothing left to do


def test_a_network_made_again_is_not_removed_by_an_old_removal() -> None:
    world = prepared([create_network])
    world.faults.fail_at = 2  # the record's deletion, after unfollow
    with pytest.raises(StoreUnavailable):
        world.network_service.delete_network(NET)
    world.faults.reset()
    create_network(world)
    world.ledger.run()
    assert list(world.networks.live) == [NET]
    assert world.directory.live == {1}
