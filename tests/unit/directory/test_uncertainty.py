"""What is in doubt: whom is asked, when, whose answer ends it, and when a host answers itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest

from driver.errors import StoreUnavailable
from driver.model import Endpoint, EndpointId, Host, HostId, Vip, Vni
from driver.services.directory.publisher import Publisher
from driver.services.ports import Answer, Left, Said
from driver.services.upkeep.answering import Answering
from driver.services.upkeep.uncertainty import (
    ASK_AFTER_S,
    CALM_S,
    LOOK_S,
    PATIENCE_S,
    QUESTIONS,
    Uncertainty,
)
from driver.services.vips.mirror import VipMirror
from tests.support.fakes.ports import HOST, FakeDirectory, FakeVipFeed, Faults, World
from tests.unit.directory.test_publisher import OTHER, VNI, RecordingDatapath, there
from tests.unit.networks.test_vips import MINE, NET, NETWORK

B = Host(OTHER, "host-b", IPv4Address("198.18.0.2"))
ENDPOINT = there("b", "10.50.0.3/16")


class Directory(FakeDirectory):
    said: tuple[Said, ...] = ()

    def read(self, vni: Vni) -> Iterable[Said]:
        return iter(self.said)


@dataclass
class FakeAnswers:
    answers: dict[HostId, Answer] = field(default_factory=dict)
    asked: list[tuple[HostId, int]] = field(default_factory=list)
    said: list[int] = field(default_factory=list)
    away: bool = False

    def all(self) -> dict[HostId, Answer]:
        if self.away:
            raise StoreUnavailable("etcd is away")
        return self.answers

    def ask(self, host_id: HostId, revision: int) -> None:
        self.asked.append((host_id, revision))

    def say(self, revision: int) -> None:
        self.said.append(revision)


@dataclass
class FakePublications:
    said: dict[str, int] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    def all(self) -> dict[str, int]:
        return self.said

    def ask(self, revision: int) -> None:
        self.asked.append(revision)


class Cluster:
    """This host, and what it hears of host-b."""

    def __init__(self) -> None:
        self.now_s = 100.0
        clock = lambda: self.now_s  # noqa: E731
        self.datapath = RecordingDatapath(Faults())
        self.publisher = Publisher(self.datapath, HOST.id, clock=clock)
        self.feed = FakeVipFeed(Faults())
        self.mirror = VipMirror(self.feed, self.datapath, clock=clock)
        self.answers, self.publications = FakeAnswers(), FakePublications()
        self.directory = Directory(Faults())
        self.uncertainty = Uncertainty(
            publisher=self.publisher, vips=self.mirror, directory=self.directory,
            answers=self.answers, publications=self.publications, clock=clock)
        self.uncertainty.hosts_changed({B.id: B})
        self.publisher.snapshot(VNI, [ENDPOINT], 5)

    def run(self, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.uncertainty.run()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_host_is_asked_after_a_while_and_its_answer_ends_the_doubt(
        cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cluster.run()
    assert (cluster.answers.asked, cluster.uncertainty.describe()) == ([], "")
    cluster.publisher.missing(VNI, ENDPOINT.id, 9)
    cluster.run()
    assert cluster.answers.asked == [], "it may enter it again by itself"
    assert cluster.uncertainty.describe() == (
        "1 in doubt, kept though etcd lacks them (host-b (198.18.0.2): 1)")
    cluster.answers.answers[OTHER] = Answer(8)
    cluster.run(ASK_AFTER_S)
    cluster.run()
    assert cluster.answers.asked == [(OTHER, 9), (OTHER, 9)]
    assert caplog.text.count("etcd lacks 1 endpoints of host host-b") == 1
    assert cluster.datapath.places
    cluster.answers.answers[OTHER] = Answer(9)
    cluster.run()
    assert cluster.datapath.places == {}
    assert "it says that they are none of its" in caplog.text
    cluster.run()
    assert "nothing of host host-b" in caplog.text
    assert cluster.answers.asked == [(OTHER, 9), (OTHER, 9)]


def test_what_is_on_record_again_is_not_removed_by_an_answer(cluster: Cluster) -> None:
    cluster.publisher.missing(VNI, ENDPOINT.id, 9)
    cluster.answers.answers[OTHER] = Answer(12)
    cluster.directory.said = (ENDPOINT,)
    cluster.run()
    assert cluster.datapath.places
    cluster.directory.said = (Left(ENDPOINT),)
    cluster.run()
    assert cluster.datapath.places == {}


def test_a_host_without_a_lease_is_not_asked_and_who_removed_it_speaks_for_it(
        cluster: Cluster) -> None:
    cluster.uncertainty.hosts_changed({})
    cluster.publisher.missing(VNI, ENDPOINT.id, 9)
    cluster.answers.answers[OTHER] = Answer(12)
    cluster.run(ASK_AFTER_S)
    assert cluster.answers.asked == []
    assert "198.18.0.2, not registered: 1" in cluster.uncertainty.describe()
    assert cluster.datapath.places
    cluster.answers.answers[OTHER] = Answer(12, B.underlay)
    # Another machine has that address by now: it is asked, not believed for another's sake.
    new = Host(HostId("c" * 32), "new", B.underlay)
    cluster.uncertainty.hosts_changed({new.id: new})
    cluster.run()
    assert cluster.answers.asked == [(new.id, 9)]
    assert cluster.datapath.places
    cluster.uncertainty.hosts_changed({})
    cluster.run()
    assert cluster.datapath.places == {}


def test_not_all_hosts_are_asked_at_once(cluster: Cluster) -> None:
    hosts = [Host(HostId(f"{n:032}"), f"h{n}", IPv4Address(f"198.18.1.{n}")) for n in range(60)]
    cluster.uncertainty.hosts_changed({host.id: host for host in hosts})
    for number, host in enumerate(hosts):
        one = replace(there("x", f"10.50.1.{number}/16", 20000 + number), host=host.id,
                      id=EndpointId(f"{number:064}"), underlay=host.underlay)
        cluster.publisher.put(one)
        cluster.publisher.missing(VNI, one.id, 9)
    cluster.run(ASK_AFTER_S)
    assert len(set(cluster.answers.asked)) == QUESTIONS


def test_it_looks_less_often_when_nobody_answers_and_waits_for_etcd(cluster: Cluster) -> None:
    assert cluster.uncertainty.pause_s() == LOOK_S
    cluster.publisher.missing(VNI, ENDPOINT.id, 9)
    cluster.answers.away = True
    cluster.run()
    assert cluster.uncertainty.pause_s() == LOOK_S
    cluster.run(PATIENCE_S + 1)
    assert cluster.uncertainty.pause_s() == CALM_S
    cluster.publisher.put(ENDPOINT)
    cluster.run()
    assert cluster.uncertainty.pause_s() == LOOK_S


def test_services_are_asked_for_and_settled(cluster: Cluster) -> None:
    cluster.mirror.follow(NETWORK)
    gone: Vip = replace(MINE, address=IPv4Address("10.32.0.77"))
    cluster.feed.live[NET].snapshot(NET, [MINE, gone], 5)
    cluster.feed.live[NET].snapshot(NET, [MINE], 9)
    cluster.run()
    assert cluster.publications.asked == [], "its swarm has no publisher"
    assert cluster.uncertainty.describe_vips().startswith("1 in doubt")
    cluster.publications.said = {"swarm": 0, "another": 99}
    cluster.run()
    assert cluster.publications.asked == [9]
    assert cluster.mirror.count() == 2
    cluster.publications.said = {"swarm": 9}
    cluster.feed.on_record = [MINE]
    cluster.run()
    assert (cluster.mirror.count(), cluster.uncertainty.describe_vips()) == (1, "")


class Records:
    lost: tuple[Endpoint, ...] = ()
    revision = 20

    def missing(self, own: Callable[[], Sequence[Endpoint]]) -> tuple[list[Endpoint], int]:
        assert own() == [ENDPOINT]
        return list(self.lost), self.revision


@pytest.fixture
def world() -> World:
    made = World()
    made.endpoints.live[ENDPOINT.id] = ENDPOINT
    made.links.create_veth(ENDPOINT.id, bytes(6), 1500)
    return made


def answering(world: World, records: Records, answers: FakeAnswers, *, ready: bool = True
              ) -> Answering:
    return Answering(answers=answers, records=records, endpoints=world.endpoints,
                     links=world.links, ready=lambda: ready)


def test_a_host_answers_once_for_each_question(world: World) -> None:
    answers = FakeAnswers()
    mine = answering(world, Records(), answers)
    mine.run()
    assert answers.said == []
    mine.asked(20)
    mine.run()
    mine.run()
    assert answers.said == [20]
    mine.asked(18)  # etcd was restored from a snapshot
    mine.run()
    assert answers.said == [20, 20]


@pytest.mark.parametrize("why", ["too early", "lost", "a stranger", "not ready", "etcd is away",
                                 "just changing"])
def test_a_host_says_nothing_while_it_is_not_sure(world: World, why: str) -> None:
    answers, records = FakeAnswers(), Records()
    mine = answering(world, records, answers, ready=why != "not ready")
    mine.asked(21 if why == "too early" else 20)
    if why == "lost":
        records.lost = (ENDPOINT,)
    if why == "just changing":
        records.revision = 0
    if why == "a stranger":  # an interface whose endpoint it does not know: etcd was wiped, say
        world.links.create_veth(EndpointId("z" * 64), bytes(6), 1500)
    world.faults.down = why == "etcd is away"
    mine.run()
    assert answers.said == []

