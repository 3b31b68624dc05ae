"""Links are deleted behind DeleteEndpoint's answer: nothing is waited for, nothing is left."""

from __future__ import annotations

import pytest

from driver.errors import StoreUnavailable
from driver.model import EndpointId
from tests.support.fakes import World
from tests.unit.test_endpoints_steps import EP, NET, create_endpoint, create_network, join


@pytest.fixture
def asked() -> list[EndpointId]:
    return []


@pytest.fixture
def world(asked: list[EndpointId]) -> World:
    made = World(unlink_later=asked.append)
    create_network(made)
    create_endpoint(made)
    join(made)
    return made


def test_the_link_goes_after_the_answer(world: World, asked: list[EndpointId]) -> None:
    world.endpoint_service.delete_endpoint(NET, EP)
    assert asked == [EP]
    assert len(world.links.live) == 1
    world.endpoint_service.unlink(EP)
    assert not world.links.live


def test_an_endpoint_that_exists_again_keeps_its_link(world: World) -> None:
    world.endpoint_service.delete_endpoint(NET, EP)
    create_endpoint(world)
    join(world)
    world.endpoint_service.unlink(EP)
    assert len(world.links.live) == 1


def test_the_link_goes_though_the_record_could_not(world: World) -> None:
    world.faults.reset()
    world.faults.fail_at = 3  # after forgetting the sandbox and withdrawing the endpoint
    with pytest.raises(StoreUnavailable, match=r"endpoints\.delete"):
        world.endpoint_service.delete_endpoint(NET, EP)
    world.faults.reset()
    assert world.endpoints.live
    world.endpoint_service.unlink(EP)
    assert not world.links.live
