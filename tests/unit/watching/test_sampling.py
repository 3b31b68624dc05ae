"""Tests rates of pairs: what two looks at the same sockets differ in, and what is left out."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from driver.services.ports import End, Names, OpenSocket, PairRate, Path
from driver.services.seeing.roster import Roster
from driver.services.seeing.sight import Sight
from driver.services.watching import sampling
from driver.services.watching.sampling import Sample, Sampler
from tests.unit.seeing.world import APP, HERE, THERE, World, endpoint, socket

CLIENT, WEB, NEXT = (End(APP, ip_address(f"10.32.0.{number}")) for number in (2, 6, 3))


class Looks:
    """A sampler over a world whose clock goes on by two seconds a look."""

    def __init__(self) -> None:
        self.world = World()
        self.sampler = Sampler(self.world, Sight(self.world, self.world.maps),
                               clock=lambda: self.world.now_s)

    def look(self, *sockets: OpenSocket, key: str = "/netns/c0", after_s: float = 2.0) -> Sample:
        self.world.open[key] = list(sockets)
        self.world.now_s += after_s
        return self.sampler.sample(Roster(self.world.sources))


@pytest.fixture
def looks() -> Looks:
    return Looks()


def to_web(cookie: int, received: int = 0, sent: int = 0) -> OpenSocket:
    return socket("10.32.0.2:40001", "10.32.0.6:80", cookie=cookie, received_bytes=received,
                  sent_bytes=sent)


def test_the_first_look_has_no_rates(looks: Looks) -> None:
    assert looks.look(to_web(1, 500, 700), to_web(2)).pairs == (
        PairRate(CLIENT, WEB, Path.OVERLAY, 2, 0, 0, 0),)


def test_what_came_since(looks: Looks) -> None:
    looks.look(to_web(1, 500, 700), to_web(2))
    # One goes on, one has gone, and one is new: all its bytes are.
    found = looks.look(to_web(1, 600, 1700), to_web(3, 40, 60))
    assert found.pairs == (PairRate(CLIENT, WEB, Path.OVERLAY, 2, 0.5, 70.0, 530.0),)
    assert [(each.path, each.connections, each.out_per_s) for each in found.paths] == [
        (Path.OVERLAY, 2, 530.0)]
    assert looks.look(to_web(1, 600, 1700), to_web(3, 40, 60)).pairs[0].out_per_s == 0


def test_the_time_between_two_looks_counts(looks: Looks) -> None:
    looks.look(to_web(1))
    assert looks.look(to_web(1, 1000), after_s=10.0).pairs[0].in_per_s == 100.0


def test_after_a_beginning_anew_there_are_no_rates(looks: Looks) -> None:
    looks.look(to_web(1))
    looks.sampler.begin_anew()
    assert looks.look(to_web(1, 1000), to_web(2)).pairs == (
        PairRate(CLIENT, WEB, Path.OVERLAY, 2, 0, 0, 0),)


def test_a_connection_on_the_host_path_and_a_service(looks: Looks) -> None:
    one = socket(f"{HERE}:40001", f"{THERE}:61005", cookie=7)
    looks.world.stored.append((one, Names(ip_address("10.32.0.2"), 40001, ip_address("10.32.9.9"),
                                          80, (THERE, 61005, 40001), accepted=False)))
    # The pair is that of the task that answers, which tells of it, too.
    assert [(each.here, each.there, each.path) for each in looks.look(one).pairs] == [
        (CLIENT, WEB, Path.HOST)]


def test_who_talks_is_asked_once_a_connection(looks: Looks) -> None:
    looks.look(to_web(1))
    del looks.world.maps.directory[APP, WEB.address]  # its path would not be known any more
    looks.world.endpoints.pop()
    looks.world.add("client", endpoint("c0", "10.32.0.9/16"))
    assert [(each.here, each.path) for each in looks.look(to_web(1)).pairs] == [
        (CLIENT, Path.OVERLAY)]


def test_names_that_come_late_are_seen(looks: Looks) -> None:
    """Between accept and the program that stores them, a connection looks like an outside one."""
    one = socket(f"{HERE}:61000", f"{THERE}:40002", cookie=7)
    assert looks.look(one).pairs[0].path is Path.OUTSIDE
    looks.world.stored.append((one, Names(
        ip_address("10.32.0.2"), 80, ip_address("10.32.0.6"), 40002, (THERE, 40002, 61000),
        accepted=True)))
    assert [(each.here, each.there, each.path) for each in looks.look(one).pairs] == [
        (CLIENT, WEB, Path.HOST)]


def test_what_leaves_no_container_is_left_out_and_what_leaves_slim_is_not(looks: Looks) -> None:
    found = looks.look(socket("127.0.0.1:5000", "127.0.0.1:6000", cookie=1),
                       socket("172.18.0.2:4000", "1.1.1.1:443", cookie=2))
    assert [(each.here, each.there, each.path) for each in found.pairs] == [
        (CLIENT, End(0, ip_address("1.1.1.1")), Path.OUTSIDE)]
    looks.look(socket("127.0.0.1:5000", "127.0.0.1:6000", cookie=1))


def test_the_busiest_come_first(looks: Looks) -> None:
    def sockets(*, later: bool) -> list[OpenSocket]:
        quiet = [socket("10.32.0.2:1", f"10.32.1.{number}:80", cookie=number)
                 for number in range(1, 50)]
        loud = socket("10.32.0.2:2", "10.32.2.1:80", cookie=100, sent_bytes=10_000 * later)
        many = [socket("10.32.0.2:3", "10.32.2.2:80", cookie=200 + number)
                for number in range(20 * later)]
        return [*quiet, loud, *many]

    looks.look(*sockets(later=False))
    found = looks.look(*sockets(later=True)).pairs
    assert [str(each.there.address) for each in found[:2]] == ["10.32.2.1", "10.32.2.2"]
    assert len(found) == 51


def test_only_so_many_pairs_are_told_apart(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PAIRS_MAX", 3)
    found = looks.look(*(socket("10.32.0.2:1", f"10.32.1.{number}:80", cookie=number)
                         for number in range(1, 11)))
    assert (len(found.pairs), found.more_pairs) == (3, 7)
    assert [each.connections for each in found.paths] == [10]


def test_a_container_that_cannot_be_read(looks: Looks) -> None:
    looks.world.broken["/netns/c0"] = "cannot list sockets: EPERM"
    assert looks.look(to_web(1)).unread == {"client": "cannot list sockets: EPERM"}


def test_no_container_is_left_out_twice(looks: Looks) -> None:
    """One that takes all the time is looked at again only after those that had none."""
    looks.world.add("next", endpoint("e0", "10.32.0.3/16"))
    looks.world.open["/netns/e0"] = [socket("10.32.0.3:1", "10.32.0.6:80", cookie=9)]

    def slow() -> None:
        looks.world.now_s += 10

    looks.world.on_read = slow
    first = looks.look(to_web(1))
    assert first.unread == {"client": "it has more than could be read in time",
                            "next": "there was no time left for it"}
    second = looks.look(to_web(1))
    assert second.unread == {"next": "it has more than could be read in time",
                             "client": "there was no time left for it"}
    looks.world.on_read = lambda: None
    assert looks.look(to_web(1)).unread == {}
