"""Tests when sandboxes' name servers are opened and ended, and that nothing of them is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from driver.errors import LinkError
from driver.model import Endpoint
from driver.services.names.resolver import Resolver
from driver.services.names.serving import NameServing
from driver.services.names.table import NameTable
from driver.services.ports import NamesView, Question, QuestionKind
from driver.work.ledger import Ledger
from tests.support.fakes.ports import FakeListener
from tests.unit.names.world import endpoint

KEY, OTHER_KEY = "/var/run/docker/netns/k", "/var/run/docker/netns/o"
WEB = endpoint(1, "web")
ALSO = endpoint(2, "also")
UNNAMED = endpoint(3, "unnamed")  # in a network whose names are not ours


class World:
    """NameSandboxes and NameServers that count; the test runs what is outstanding."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.hooks: set[str] = set()
        self.sockets: dict[str, int] = {}  # key -> number of those that are served
        self.opened = 0
        self.error: dict[str, Exception] = {}  # of which step
        self.ledger = Ledger(pause_s=lambda _failed, _error: 0.0)
        table = NameTable(FakeListener(), lambda _vni, _id: True)
        table.put(WEB)
        self.resolver = Resolver(table, lambda: NamesView((), {}, {}),
                                 lambda endpoint: endpoint != UNNAMED)
        self.serving = NameServing(self, Servers(self), self.resolver, self.ledger)

    def step(self, name: str, act: Callable[[], None]) -> None:
        if name in self.error:
            raise self.error[name]
        self.done.append(name)
        act()

    def open(self, sandbox_key: str) -> int:
        """The method of NameSandboxes."""
        self.step("open", lambda: self.hooks.add(sandbox_key))
        self.opened += 1
        return self.opened

    def remove(self, sandbox_key: str) -> None:
        """The method of NameSandboxes."""
        self.step("unhook", lambda: self.hooks.discard(sandbox_key))

    def enter(self, cookie: int = 7, *endpoints: Endpoint, key: str = KEY) -> list[str]:
        """Return what is done then."""
        return self._run(lambda: [self.serving.enter(key, cookie, each)
                                  for each in endpoints or [WEB]])

    def leave(self, endpoint: Endpoint = WEB, key: str = KEY) -> list[str]:
        """Return what is done then."""
        return self._run(lambda: self.serving.leave(key, endpoint.id))

    def _run(self, act: Callable[[], object]) -> list[str]:
        del self.done[:]
        act()
        assert self.done == [], "it returns at once"
        self.ledger.run()
        return list(self.done)

    def answers(self, key: str = KEY) -> bool:
        return self.resolver.resolve(key, Question(QuestionKind.ADDRESS, "web")) is not None


class Servers:
    """The fake of NameServers: an earlier one's sockets are closed."""

    def __init__(self, world: World) -> None:
        self.world = world

    def add(self, sandbox_key: str, sockets: int) -> None:
        self.world.step("serve", lambda: self.world.sockets.update({sandbox_key: sockets}))

    def remove(self, sandbox_key: str) -> None:
        self.world.step("end", lambda: self._end(sandbox_key))

    def _end(self, sandbox_key: str) -> None:
        self.world.sockets.pop(sandbox_key, None)


@pytest.fixture
def world() -> World:
    return World()


def nothing_is_left(world: World) -> bool:
    return (world.hooks, world.sockets, world.serving.count(), world.ledger.outstanding(),
            world.answers()) == (set(), {}, 0, [], False)


def test_served_once(world: World) -> None:
    assert world.enter() == ["open", "serve"]
    assert world.answers()
    assert world.enter() == [], "it was told again"
    assert world.enter(7, ALSO) == [], "another endpoint of the same sandbox"
    assert world.serving.count() == 1
    assert world.leave() == []
    assert world.answers(), "the other one is still there"
    assert world.leave(ALSO) == ["end", "unhook"]
    assert nothing_is_left(world)


def test_ended(world: World) -> None:
    world.enter()
    assert world.leave() == ["end", "unhook"]
    assert nothing_is_left(world)
    assert world.leave() == []
    assert world.enter() == ["open", "serve"]


def test_another_namespace_at_the_same_path(world: World) -> None:
    world.enter(7)
    assert world.enter(8) == ["end", "unhook", "open", "serve"]
    assert world.sockets == {KEY: 2}
    assert world.serving.count() == 1
    assert world.leave() == ["end", "unhook"], "what was in the first one has gone with it"


def test_each_sandbox_for_itself(world: World) -> None:
    world.enter(7)
    world.enter(8, key=OTHER_KEY)
    assert world.serving.count() == 2
    world.leave()
    assert (set(world.sockets), world.hooks) == ({OTHER_KEY}, {OTHER_KEY})


def test_without_a_network_whose_names_are_ours(world: World) -> None:
    assert world.enter(7, UNNAMED) == []
    assert nothing_is_left(world)
    assert world.enter() == ["open", "serve"]
    assert world.leave() == ["end", "unhook"], "it has left the other network"
    assert nothing_is_left(world)
    assert world.leave(UNNAMED) == []


def test_it_cannot_be_opened(world: World) -> None:
    world.error["open"] = LinkError("a program there uses the port")
    assert world.enter() == []
    (step,) = world.ledger.outstanding()
    assert (step.what, step.error) == (f"name server of sandbox {KEY}",
                                       "a program there uses the port")
    assert world.serving.count() == 0
    world.ledger.run()
    assert world.ledger.outstanding()[0].attempts == 2
    world.error.clear()
    world.ledger.run()
    assert (world.hooks, world.sockets, world.ledger.outstanding()) == ({KEY}, {KEY: 1}, [])


def test_it_could_not_be_opened_and_is_not_wanted_any_more(world: World) -> None:
    world.error["open"] = LinkError("a program there uses the port")
    world.enter()
    assert world.leave() == []
    assert nothing_is_left(world)
    assert not world.ledger.run()


@pytest.mark.parametrize("cookie", [0, 8])
@pytest.mark.parametrize("step", ["end", "unhook"])
def test_it_cannot_be_ended(world: World, step: str, cookie: int) -> None:
    world.enter(7)
    world.error[step] = LinkError("no")
    if cookie:
        world.enter(cookie)
    else:
        world.leave()
        assert not world.answers(), "nobody is answered meanwhile"
    assert [each.error for each in world.ledger.outstanding()] == ["no"]
    world.error.clear()
    world.ledger.run()
    assert world.ledger.outstanding() == []
    assert world.sockets == ({KEY: 2} if cookie else {})
    assert world.hooks == ({KEY} if cookie else set())
    assert world.serving.count() == bool(cookie)


def test_the_new_one_cannot_be_opened(world: World) -> None:
    world.enter(7)
    world.error["open"] = LinkError("no")
    world.enter(8)
    assert (world.hooks, world.sockets, world.serving.count()) == (set(), {}, 0)
    world.enter(7)  # yet another one, with the cookie of the first
    world.error.clear()
    world.ledger.run()
    assert (world.hooks, world.sockets) == ({KEY}, {KEY: 2})


def test_left_before_it_was_served(world: World) -> None:
    world.serving.enter(KEY, 7, WEB)
    assert world.leave() == []
    assert nothing_is_left(world)
