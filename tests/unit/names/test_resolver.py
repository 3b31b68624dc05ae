"""Tests what a container is answered, and what is left to Docker's name server."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from driver.model import SWARM_ID_LENGTH, Endpoint, EndpointId, NetworkId, Vni
from driver.services.names.resolver import Resolver
from driver.services.names.table import Named, NameTable
from driver.services.ports import NameReply, NamesView, Question, QuestionKind
from tests.support.fakes.ports import FakeListener
from tests.unit.names.world import (
    NETWORK,
    OTHER_NETWORK,
    OTHER_VNI,
    container,
    endpoint,
    view,
)

KEY = "/var/run/docker/netns/k"
ASKER = endpoint(1, "alice", v6=True)
WEB = endpoint(2, "web", v6=True)
OLD, NEW = endpoint(3, "old"), endpoint(4, "new", v4=False, v6=True)
# The same name in another network.
OTHER_WEB = endpoint(5, "web", network=OTHER_NETWORK, vni=OTHER_VNI)
IN_OTHER = endpoint(6, "alice", network=OTHER_NETWORK, vni=OTHER_VNI)
IN_SWARM = endpoint(7, "alice", network=NetworkId("s" * SWARM_ID_LENGTH), vni=Vni(9))
SWARM_WEB = endpoint(8, "task", network=IN_SWARM.network_id, vni=IN_SWARM.vni)
BRIDGE = NetworkId("d" * 64)


class World:
    """A sandbox that asks, in a table with endpoints of all hosts."""

    def __init__(self) -> None:
        self.table = NameTable(FakeListener(), lambda _vni, _id: True)
        for each in (ASKER, WEB, OLD, NEW, OTHER_WEB, IN_OTHER, IN_SWARM, SWARM_WEB):
            self.table.put(each)
        self.view: NamesView = view(networks={NETWORK: "App", OTHER_NETWORK: "back"})
        self.without_names: set[EndpointId] = set()
        # Not by chance: the last one comes first.
        self.resolver = Resolver(self.table, lambda: self.view, self.has_names,
                                 shuffle=list[Named].reverse)
        self.resolver.enter(KEY, [ASKER])

    def has_names(self, endpoint: Endpoint) -> bool:
        return endpoint.id not in self.without_names and endpoint.vni != IN_SWARM.vni

    def ask(self, name: str, kind: QuestionKind = QuestionKind.ADDRESS,
            key: str = KEY) -> NameReply | None:
        return self.resolver.resolve(key, Question(kind, name))

    def found(self, name: str, kind: QuestionKind = QuestionKind.ADDRESS) -> list[str] | None:
        reply = self.ask(name, kind)
        return None if reply is None else [str(each) for each in reply.addresses]

    def reverse(self, address: str) -> tuple[str, ...] | None:
        reply = self.resolver.resolve(KEY, Question(
            QuestionKind.NAME, "whatever.in-addr.arpa", ip_address(address)))
        return None if reply is None else reply.names


@pytest.fixture
def world() -> World:
    return World()


def test_addresses_of_both_kinds(world: World) -> None:
    assert world.found("web") == ["10.32.0.2"]
    assert world.found("web", QuestionKind.ADDRESS6) == ["fd00::2"]


def test_other_kinds_of_a_name_that_exists_are_empty(world: World) -> None:
    assert world.ask("web", QuestionKind.OTHER) == NameReply()


def test_a_name_with_the_other_family_only_exists(world: World) -> None:
    """Asking further would have another server say that it does not: programs believe that."""
    assert world.ask("old", QuestionKind.ADDRESS6) == NameReply()
    assert world.ask("new") == NameReply()
    assert world.found("new", QuestionKind.ADDRESS6) == ["fd00::4"]


def test_an_unknown_name_is_left_to_docker(world: World) -> None:
    for kind in (QuestionKind.ADDRESS, QuestionKind.ADDRESS6, QuestionKind.OTHER):
        assert world.ask("example.org", kind) is None
        assert world.ask("", kind) is None


def test_a_name_with_its_network(world: World) -> None:
    assert world.found("web.app") == ["10.32.0.2"]
    assert world.ask("old.app", QuestionKind.ADDRESS6) == NameReply()
    for name in ("web.back", "web.ap", "webapp", ".app", "app", "web.app.app", "web.",
                 f"web.{NETWORK}"):
        assert world.ask(name) is None, name


def test_a_network_whose_name_docker_has_not_told_yet(world: World) -> None:
    world.view = view()
    assert world.found("web") == ["10.32.0.2"]
    assert world.ask("web.app") is None


def test_a_network_that_cannot_be_asked_for(world: World) -> None:
    world.view = view(networks={NETWORK: "my net"})
    assert world.found("web") == ["10.32.0.2"]
    assert world.ask("web.my net") is None
    assert world.ask("web.") is None
    assert world.reverse("10.32.0.2") == ("web.",)


def test_a_name_that_ends_like_its_network(world: World) -> None:
    world.table.put(endpoint(2, "web.app", v6=True))
    assert world.found("web.app") == ["10.32.0.2"]
    assert world.found("web.app.app") == ["10.32.0.2"]


def test_names_of_addresses(world: World) -> None:
    assert world.reverse("10.32.0.2") == ("web.app.",)
    assert world.reverse("fd00::2") == ("web.app.",)
    assert world.reverse("10.32.0.99") is None
    assert world.reverse("10.32.0.5") is None, "in a network that the asker is not in"


def test_several_of_one_name_are_shuffled(world: World) -> None:
    world.table.put(endpoint(9, "web"))
    once = world.found("web")
    assert once is not None
    assert sorted(once) == ["10.32.0.2", "10.32.0.9"]

    def as_it_is(found: list[Named]) -> None:
        """Leave the order."""

    same = Resolver(world.table, lambda: world.view, shuffle=as_it_is)
    same.enter(KEY, [ASKER])
    reply = same.resolve(KEY, Question(QuestionKind.ADDRESS, "web"))
    assert reply is not None
    assert [str(each) for each in reply.addresses] == once[::-1]


def test_a_real_shuffle_puts_each_one_first_sometimes(world: World) -> None:
    world.table.put(endpoint(9, "web"))
    resolver = Resolver(world.table, lambda: world.view)
    resolver.enter(KEY, [ASKER])
    first = set()
    for _ in range(200):  # all the same: once in 2^199
        reply = resolver.resolve(KEY, Question(QuestionKind.ADDRESS, "web"))
        assert reply is not None
        assert len(reply.addresses) == 2
        first.add(reply.addresses[0])
    assert len(first) == 2


def test_each_network_has_names_of_its_own(world: World) -> None:
    assert world.resolver.enter("other", [IN_OTHER])
    reply = world.ask("web", key="other")
    assert reply is not None
    assert [str(each) for each in reply.addresses] == ["10.32.0.5"]
    assert world.ask("old", key="other") is None


def test_who_is_in_two_networks_sees_both(world: World) -> None:
    world.resolver.enter(KEY, [ASKER, IN_OTHER])
    assert sorted(world.found("web") or ()) == ["10.32.0.2", "10.32.0.5"]
    assert world.found("web.app") == ["10.32.0.2"]
    assert world.found("web.back") == ["10.32.0.5"]
    world.resolver.enter(KEY, [IN_OTHER])
    assert world.found("web") == ["10.32.0.5"], "what it is in now counts"


def test_networks_of_swarms_are_dockers(world: World) -> None:
    assert not world.resolver.enter(KEY, [IN_SWARM])
    assert world.ask("task") is None
    assert world.ask("web") is None, "it is not in that network any more"
    assert world.resolver.enter(KEY, [IN_SWARM, ASKER])
    assert world.ask("task") is None
    assert world.found("web") == ["10.32.0.2"]


def test_networks_without_names_are_dockers(world: World) -> None:
    world.without_names = {ASKER.id}
    assert not world.resolver.enter(KEY, [ASKER])
    assert world.ask("web") is None
    assert world.resolver.enter(KEY, [ASKER, IN_OTHER])
    assert world.found("web") == ["10.32.0.5"]


def test_what_docker_knows_is_looked_for_again_when_it_may_have_changed(world: World) -> None:
    bridged = container(**{ASKER.id: ("alice",), "bridged": ("alice",)})
    network_of = {ASKER.id: NETWORK, EndpointId("bridged"): BRIDGE,
                  EndpointId("web_there"): BRIDGE, EndpointId("old_there"): BRIDGE}
    world.view = view(bridged, container(web_there=("web",)), network_of=network_of)
    assert (world.found("web"), world.found("old")) == (None, ["10.32.0.3"])
    world.view = view(bridged, container(old_there=("old",)), network_of=network_of)
    assert (world.found("web"), world.found("old")) == (["10.32.0.2"], None)
    world.resolver.enter(KEY, [IN_OTHER])
    assert world.found("web") == ["10.32.0.5"]
    world.resolver.leave(KEY)
    assert world.ask("web") is None


def test_links_are_the_askers_own(world: World) -> None:
    linked = container("Web", **{ASKER.id: ("alice",)})
    world.view = view(linked)
    assert world.ask("web") is None
    assert world.ask("web", QuestionKind.ADDRESS6) is None
    assert world.found("old") == ["10.32.0.3"]
    world.view = view(container("web", **{WEB.id: ("web",)}))
    assert world.found("web") == ["10.32.0.2"], "another's link does not concern it"


@pytest.mark.parametrize("network", [BRIDGE, IN_SWARM.network_id])
def test_names_in_networks_of_others_are_dockers(world: World, network: NetworkId) -> None:
    own = container(**{ASKER.id: ("alice",), "bridged": ("alice", "me")})
    there = container(web_there=("WEB",))
    elsewhere = container(old_elsewhere=("old",))
    neighbour = container(**{OLD.id: ("old",)})
    world.view = view(own, there, elsewhere, neighbour, network_of={
        ASKER.id: NETWORK, OLD.id: NETWORK, EndpointId("bridged"): network,
        EndpointId("web_there"): network, EndpointId("old_elsewhere"): NetworkId("e" * 64)})
    assert world.ask("web") is None, "both have that name: Docker knows which one it prefers"
    assert world.found("old") == ["10.32.0.3"]
    assert world.found("alice") == ["10.32.0.1"]
    world.view = view(container(**{ASKER.id: ("alice",)}), there, network_of={
        ASKER.id: NETWORK, EndpointId("web_there"): network})
    assert world.found("web") == ["10.32.0.2"], "the asker is not in that network"


def test_nobody_asks_from_an_unknown_sandbox(world: World) -> None:
    assert world.ask("web", key="unknown") is None


def test_who_has_left_is_answered_nothing(world: World) -> None:
    world.resolver.leave(KEY)
    assert world.ask("web") is None
    assert world.reverse("10.32.0.2") is None
    world.resolver.leave(KEY)  # again: nothing to do
    assert world.resolver.enter(KEY, [ASKER])
    assert world.found("web") == ["10.32.0.2"]
