"""Tests that the finisher tells of each endpoint whose names a sandbox may know, and of its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Interface

import pytest

from driver.errors import LinkError
from driver.model import Endpoint, EndpointId
from driver.services.sandboxes.finisher import Finisher
from driver.work.ledger import Ledger
from tests.support.run.wait import wait_until
from tests.unit.sandboxes.test_finisher import KEY, UNDERLAY, WAIT_S, World, endpoint, up, veth

OTHER_KEY = "/var/run/docker/netns/other"
ONLY_IPV6 = replace(endpoint(3, port=0), address=None, address6=IPv6Interface("fd00::3/64"))


class Names:
    """The fake of NameServing: a sandbox's namespace, and who is in it."""

    def __init__(self) -> None:
        self.told: dict[str, tuple[int, set[EndpointId]]] = {}

    def enter(self, sandbox_key: str, cookie: int, endpoint: Endpoint) -> None:
        before, members = self.told.get(sandbox_key, (cookie, set()))
        self.told[sandbox_key] = (cookie, (members if before == cookie else set()) | {endpoint.id})

    def leave(self, sandbox_key: str, endpoint_id: EndpointId) -> None:
        cookie, members = self.told.get(sandbox_key, (0, set()))
        self.told[sandbox_key] = (cookie, members - {endpoint_id})


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def finisher(world: World, names: Names) -> Iterator[Finisher]:
    ledger = Ledger(pause_s=lambda _failed, _error: 0.0)
    made = Finisher(sandboxes=world, datapath=world, teardowns=world,  # type: ignore[arg-type]
                    underlay=UNDERLAY, overlay_mtu=lambda: 1450, names=names, ledger=ledger)
    ledger.start()
    yield made
    ledger.stop()


def come(finisher: Finisher, number: int, who: Endpoint | None = None) -> None:
    finisher.expect(who or endpoint(number), veth(number))
    up(finisher, number)


def told(names: Names, *wanted: Endpoint, cookie: int = 7, key: str = KEY) -> None:
    expected = (cookie, {each.id for each in wanted})
    wait_until(lambda: names.told.get(key) == expected, WAIT_S, f"{expected}, have {names.told}")


def test_each_member_comes_and_goes(finisher: Finisher, names: Names) -> None:
    come(finisher, 1)
    told(names, endpoint(1))
    come(finisher, 2)
    told(names, endpoint(1), endpoint(2))
    finisher.forget(endpoint(1).id)
    told(names, endpoint(2))
    finisher.forget(endpoint(2).id)
    told(names)


def test_one_that_has_no_ipv4_address(finisher: Finisher, world: World, names: Names) -> None:
    """It has no part in the host path, but asks for names like any other."""
    come(finisher, 3, ONLY_IPV6)
    told(names, ONLY_IPV6)
    assert world.entries == {}
    finisher.forget(ONLY_IPV6.id)
    told(names)


@pytest.mark.parametrize("failing", ["publish", "withdraw"])
def test_the_host_path_fails(finisher: Finisher, world: World, names: Names, failing: str) -> None:
    world.failures = [failing]
    come(finisher, 1)
    told(names, endpoint(1))
    if failing == "withdraw":
        wait_until(lambda: bool(world.entries), WAIT_S, "the host path")
        with pytest.raises(LinkError, match="withdraw"):
            finisher.forget(endpoint(1).id)
    else:
        finisher.forget(endpoint(1).id)
    told(names)


def test_it_moves_to_another_sandbox(finisher: Finisher, world: World, names: Names) -> None:
    come(finisher, 1)
    told(names, endpoint(1))
    world.cookies[OTHER_KEY] = 8
    come(finisher, 1, endpoint(1, key=OTHER_KEY))
    told(names)
    told(names, endpoint(1), cookie=8, key=OTHER_KEY)


def test_another_namespace_at_the_same_path(
        finisher: Finisher, world: World, names: Names) -> None:
    come(finisher, 1)
    told(names, endpoint(1))
    world.cookies[KEY] = 8
    come(finisher, 2)
    told(names, endpoint(2), cookie=8)
