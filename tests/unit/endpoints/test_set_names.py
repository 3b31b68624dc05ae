"""Tests putting the names of an endpoint's container on record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from driver.errors import StoreUnavailable
from driver.model import EndpointId
from tests.support.fakes.ports import World
from tests.unit.endpoints.test_steps import EP, create_endpoint, create_network


@pytest.fixture
def world() -> World:
    made = World()
    create_network(made)
    create_endpoint(made)
    made.faults.reset()
    return made


def test_names_are_put_on_record_once(world: World) -> None:
    before = world.endpoints.live[EP]
    for _ in range(2):
        world.endpoint_service.set_names(EP, ("web", "www"))
    assert world.endpoints.live == {EP: replace(before, names=("web", "www"))}
    assert world.faults.done == ["endpoints.replace"]
    world.endpoint_service.set_names(EP, ())
    assert world.endpoints.live == {EP: before}


def test_nobody_has_the_names_of_what_is_gone(world: World) -> None:
    world.endpoint_service.set_names(EndpointId("f" * 64), ("web",))
    assert list(world.endpoints.live) == [EP]
    assert world.faults.done == []


def test_etcd_is_away(world: World) -> None:
    world.faults.down = True
    with pytest.raises(StoreUnavailable):
        world.endpoint_service.set_names(EP, ("web",))
    world.faults.reset()
    world.endpoint_service.set_names(EP, ("web",))
    assert world.endpoints.live[EP].names == ("web",)
