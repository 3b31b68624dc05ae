"""Links are made ahead of Join and deleted behind the answers: none is waited for, none is left."""

from __future__ import annotations

from typing import Any

import pytest

from driver.errors import LinkError, StoreUnavailable
from driver.model import EndpointId
from driver.services.endpoints.links import DELETE_AFTER_S
from driver.work.ledger import Page
from tests.support.fakes.ports import World
from tests.unit.endpoints.test_steps import EP, NET, create_endpoint, create_network, join

Asked = list[tuple[EndpointId, float]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What is to be done for which endpoint after how many seconds."""
    found: Asked = []
    put = Page.put

    def noted(page: Page[Any, Any], key: Any, value: Any, delay_s: float = 0.0) -> None:
        found.append((key, delay_s))
        put(page, key, value, delay_s)

    monkeypatch.setattr(Page, "put", noted)
    return found


@pytest.fixture
def world(asked: Asked) -> World:
    """A network and an endpoint, for which nothing has been done in the background yet."""
    made = World(links_ahead=True)
    create_network(made)
    create_endpoint(made)
    return made


def work(world: World) -> None:
    world.ledger.run()


def created(world: World) -> int:
    return sum(step.startswith("links.create_veth") for step in world.faults.done)


def test_the_link_is_made_ahead_once(world: World, asked: Asked) -> None:
    assert asked == [(EP, 0.0)]
    assert not world.links.live
    work(world)
    assert len(world.links.live) == 1
    join(world)
    work(world)
    assert created(world) == 1


def test_join_does_not_wait_for_it(world: World) -> None:
    join(world)
    work(world)
    assert created(world) == 1


def test_what_was_made_ahead_and_removed_by_others_is_made_again(world: World) -> None:
    work(world)
    world.links.delete_veth(EP)
    join(world)
    assert len(world.links.live) == 1


def test_join_tries_again_what_failed_ahead(world: World) -> None:
    world.faults.reset()
    world.faults.fail_at, world.faults.error = 1, LinkError
    work(world)
    assert not world.links.live
    world.faults.reset()
    join(world)
    assert len(world.links.live) == 1


def test_what_was_never_joined_goes(world: World) -> None:
    work(world)
    world.endpoint_service.delete_endpoint(NET, EP)
    work(world)
    assert not world.links.live


def test_what_is_not_made_yet_is_not_made_after_its_deletion(world: World) -> None:
    world.endpoint_service.delete_endpoint(NET, EP)
    work(world)
    assert not world.links.live
    assert created(world) == 0


def test_at_leave_the_link_is_put_away_before_dockerd_moves_it(world: World,
                                                              asked: Asked) -> None:
    join(world)
    world.endpoint_service.leave(NET, EP)
    assert world.links.away == set(world.links.live)
    assert asked[1:] == [(EP, DELETE_AFTER_S)]
    work(world)
    assert not world.links.live


def test_what_cannot_be_put_away_goes_at_once(world: World, asked: Asked) -> None:
    join(world)
    world.faults.reset()
    world.faults.fail_at, world.faults.error = 3, LinkError
    world.endpoint_service.leave(NET, EP)
    assert world.links.away == set(), "the third step is that one"
    assert asked[1:] == [(EP, 0.0)]
    world.faults.reset()
    work(world)
    assert not world.links.live


def test_what_was_not_joined_is_not_put_away(world: World, asked: Asked) -> None:
    work(world)
    world.endpoint_service.leave(NET, EP)
    assert not world.links.away
    assert asked[1:] == [(EP, DELETE_AFTER_S)]


def test_who_joins_again_gets_a_link_that_dockerd_can_move(world: World) -> None:
    join(world)
    before = dict(world.links.live)
    world.endpoint_service.leave(NET, EP)
    join(world)
    work(world)
    assert world.links.live.keys() == before.keys()
    assert world.links.live != before  # the other end of that one is in a sandbox


def test_without_leave_the_link_goes_after_dockerds_own_removals(world: World,
                                                                 asked: Asked) -> None:
    join(world)
    world.endpoint_service.delete_endpoint(NET, EP)
    assert asked[1:] == [(EP, DELETE_AFTER_S)]
    work(world)
    assert not world.links.live


def test_an_endpoint_that_exists_again_keeps_its_link(world: World) -> None:
    join(world)
    world.endpoint_service.delete_endpoint(NET, EP)
    create_endpoint(world)
    join(world)
    work(world)
    assert len(world.links.live) == 1


def test_the_link_goes_though_the_record_could_not(world: World) -> None:
    join(world)
    world.faults.reset()
    world.faults.fail_at = 3  # after forgetting the sandbox and withdrawing the endpoint
    with pytest.raises(StoreUnavailable, match=r"endpoints\.delete"):
        world.endpoint_service.delete_endpoint(NET, EP)
    world.faults.reset()
    assert world.endpoints.live
    work(world)
    assert not world.links.live


def test_a_deletion_that_failed_is_tried_again(world: World) -> None:
    join(world)
    world.endpoint_service.leave(NET, EP)
    world.faults.reset()
    world.faults.fail_at, world.faults.error = 1, LinkError
    work(world)
    assert world.links.live
    world.faults.reset()
    work(world)
    assert not world.links.live
