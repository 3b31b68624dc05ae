"""Tests what is put on record of this host's containers' names, and when it is tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from driver.errors import EngineUnavailable, StoreUnavailable
from driver.model import Endpoint, EndpointId
from driver.services.names.publisher import NamePublisher
from driver.services.names.spelling import NAMES_MAX
from driver.services.ports import Container, NamesView
from driver.work.ledger import Ledger
from tests.support.run.wait import wait_until
from tests.unit.names.world import endpoint

WEB, DB = endpoint(1), endpoint(2)


def called(name: str, *names: str, endpoint: Endpoint = WEB) -> Container:
    """Return a container with these names in the endpoint's network."""
    return Container(name, {endpoint.id: frozenset({name, *names})}, frozenset())


class World:
    """This host's endpoints on record, and its Docker.  The test runs what is outstanding."""

    def __init__(self) -> None:
        self.on_record = {WEB.id: WEB, DB.id: DB}
        self.written: list[tuple[EndpointId, tuple[str, ...]]] = []
        self.containers: tuple[Container, ...] = ()
        self.looks = 0
        self.down: set[EndpointId] = set()  # records that cannot be written
        self.docker_down = False
        self.without_names: set[EndpointId] = set()
        self.ledger = Ledger(pause_s=lambda _failed, _error: 0.0)
        self.publisher = NamePublisher(self, lambda: list(self.on_record.values()),
                                       self.set_names, self.ledger, self.has_names)

    def look(self) -> NamesView:
        self.looks += 1
        if self.docker_down:
            raise EngineUnavailable("Docker cannot be asked")
        return NamesView(self.containers, {}, {})

    def has_names(self, endpoint: Endpoint) -> bool:
        return endpoint.id not in self.without_names

    def set_names(self, endpoint_id: EndpointId, names: tuple[str, ...]) -> None:
        if endpoint_id in self.down:
            raise StoreUnavailable(f"etcd is away for {endpoint_id[:4]}")
        self.on_record[endpoint_id] = replace(self.on_record[endpoint_id], names=names)
        self.written.append((endpoint_id, names))

    def publish(self, *containers: Container) -> list[tuple[EndpointId, tuple[str, ...]]]:
        """Have Docker run these; return what is written then."""
        self.containers = containers
        del self.written[:]
        self.publisher.ask_soon()
        self.ledger.run()
        return list(self.written)

    def failures(self) -> list[str]:
        return [step.error for step in self.ledger.outstanding()]


@pytest.fixture
def world() -> World:
    return World()


def test_its_own_name_comes_first_then_the_others_in_order(world: World) -> None:
    assert world.publish(called("web", "zoo", "front", "8b1f6c2a9d3e")) == [
        (WEB.id, ("web", "8b1f6c2a9d3e", "front", "zoo"))]


def test_names_are_written_as_they_are_compared(world: World) -> None:
    assert world.publish(called("Web", "WWW", "www.", "my alias", "büro", "")) == [
        (WEB.id, ("web", "www"))]


def test_its_own_name_cannot_be_asked_for(world: World) -> None:
    assert world.publish(called("l" * 64, "www")) == [(WEB.id, ("www",))]
    assert world.publish(called("l" * 64)) == [(WEB.id, ())]


def test_names_are_limited(world: World) -> None:
    """But its own is among them."""
    (_, names), = world.publish(called("zzz", *(f"a{number:03}" for number in range(100))))
    assert names == ("zzz", *(f"a{number:03}" for number in range(NAMES_MAX - 1)))


def test_each_endpoint_has_the_names_of_its_network(world: World) -> None:
    both = Container("web", {WEB.id: frozenset({"web", "www"}), DB.id: frozenset({"web", "api"}),
                             EndpointId("another driver's"): frozenset({"web"})}, frozenset())
    assert world.publish(both) == [(WEB.id, ("web", "www")), (DB.id, ("web", "api"))]


def test_a_container_that_does_not_run_keeps_what_is_on_record(world: World) -> None:
    assert world.publish() == []
    world.publish(called("web"))
    assert world.publish() == []
    assert world.on_record[WEB.id].names == ("web",)


def test_only_what_has_changed_is_written(world: World) -> None:
    assert len(world.publish(called("web"), called("db", endpoint=DB))) == 2
    assert world.publish(called("web"), called("db", endpoint=DB)) == []
    assert world.publish(called("www"), called("db", endpoint=DB)) == [(WEB.id, ("www",))]
    assert world.publish(called("www", "web"), called("db", endpoint=DB)) == [
        (WEB.id, ("www", "web"))]
    assert world.publish(called("web", "www"), called("db", endpoint=DB)) == [
        (WEB.id, ("web", "www"))], "the other one is its own by now"


def test_networks_without_names(world: World) -> None:
    world.without_names = {WEB.id}
    assert world.publish(called("web"), called("db", endpoint=DB)) == [(DB.id, ("db",))]


def test_what_docker_said_last_is_kept(world: World) -> None:
    assert world.publisher.view == NamesView((), {}, {})
    web = called("web")
    world.publish(web)
    assert world.publisher.view.containers == (web,)
    world.docker_down = True
    world.publish(called("www"))
    assert world.publisher.view.containers == (web,)


def test_etcd_is_away(world: World) -> None:
    """What can be written is; the rest is outstanding, and repeated."""
    world.down = {WEB.id}
    assert world.publish(called("web"), called("db", endpoint=DB)) == [(DB.id, ("db",))]
    assert world.failures() == [f"etcd is away for {WEB.id[:4]}"]
    world.ledger.run()
    assert world.ledger.outstanding()[0].attempts == 2
    world.down.clear()
    assert world.ledger.run()
    assert world.on_record[WEB.id].names == ("web",)
    assert world.failures() == []
    looks = [world.ledger.run() for _ in range(5)]
    assert not looks[-1], "it is done"


def test_docker_is_away(world: World) -> None:
    world.docker_down = True
    assert world.publish(called("web")) == []
    assert world.failures() == ["Docker cannot be asked"]
    assert world.ledger.outstanding()[0].what == "names of endpoints: all"
    world.docker_down = False
    world.ledger.run()
    assert world.on_record[WEB.id].names == ("web",)
    assert world.failures() == []


def test_what_changes_meanwhile_is_written_then(world: World) -> None:
    world.docker_down = True
    world.publish(called("web"))
    world.docker_down = False
    assert world.publish(called("www")) == [(WEB.id, ("www",))]


def test_docker_lists_it_later_than_it_says_so(world: World) -> None:
    """No event tells that the list is complete."""
    assert world.publish(called("db", endpoint=DB)) == [(DB.id, ("db",))]
    world.containers = (called("web"), called("db", endpoint=DB))
    assert [world.ledger.run() for _ in range(6)].count(True) < 6, "it comes to rest"
    assert world.on_record[WEB.id].names == ("web",)


def test_an_endpoint_that_docker_does_not_list_is_looked_for_again(world: World) -> None:
    world.publish(called("db", endpoint=DB))
    for _ in range(20):
        assert world.ledger.run()
    world.containers = (called("web"), called("db", endpoint=DB))
    for _ in range(2):
        world.ledger.run()
    assert world.on_record[WEB.id].names == ("web",)


def test_several_events_are_one_look(world: World) -> None:
    for _ in range(5):
        world.publisher.ask_soon()
    world.ledger.run()
    assert world.looks == 1


def test_it_looks_without_being_waited_for(world: World) -> None:
    world.containers = (called("web"),)
    world.ledger.start()
    world.publisher.ask_soon()
    wait_until(lambda: world.written, 20, "it is written")
    world.ledger.stop()
