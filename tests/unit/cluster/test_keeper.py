"""Tests what a host's keeper does to its member, and that it does so on positive knowledge only."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from driver import __version__
from driver.cluster.authority import HOST_PREFIX, Usage
from driver.cluster.door import visitor as visitor_module
from driver.cluster.door.visitor import NobodyAnswers
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.keeping import keeper as keeper_module
from driver.cluster.keeping.keeper import ALIVE_S, ELSEWHERE_S, Keeper
from driver.cluster.model import ClusterHost, Member, Role, client_url, peer_url
from driver.cluster.records import ClusterConfig
from driver.cluster.services import ETCD
from driver.errors import SlimError, StoreUnavailable, UnsupportedRecord
from driver.store.format import keys
from driver.store.kv.protocol import Delete, Put
from tests.support.fakes.kv import FakeKeyValue
from tests.unit.cluster.house import HERE, HOUR_S, House

TWO = "2" * 32
THERE = "127.0.0.2"


class Kv(FakeKeyValue):
    """Of the shared store; a context manager as the real one."""

    def __enter__(self) -> Kv:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def alarms(self) -> list[str]:
        return []


@dataclass
class FakeServices:
    """The programs that run; and what was done, in order."""

    running: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)

    def start(self, name: str) -> None:
        self.done.append(f"start {name}")
        self.running.add(name)

    def restart(self, name: str) -> None:
        self.start(name)

    def stop(self, name: str) -> None:
        self.done.append(f"stop {name}")
        self.running.discard(name)

    def log_of(self, name: str) -> str:
        return name


@dataclass
class FakeDoor:
    opened: bool = False

    def start(self) -> None:
        self.opened = True

    def stop(self) -> None:
        self.opened = False


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Host:
    """Host `two` beside the house, with its keeper; the house's door is asked without a network."""

    def __init__(self, house: House, patch: pytest.MonkeyPatch) -> None:
        self.house = house
        self.folder = house.visitor_folder(TWO)
        self.folder.put_identity(Identity("c" * 32, "test", 1, TWO, "two", THERE, complete=True))
        self.data = house.path / "etcd"
        self.services, self.clock = FakeServices(), Clock()
        self.doors: list[FakeDoor] = []
        self.asked: list[tuple[str, str]] = []
        self.elsewhere: dict[str, dict[str, Any]] = {}  # address -> what its door tells
        house.enter(ClusterHost(TWO, "two", THERE, 2.0, version=__version__))
        patch.setattr(keeper_module, "EtcdKeyValue", lambda _: Kv(house.kv.store))
        patch.setattr(keeper_module, "EtcdMembers", lambda _: Members(house))
        patch.setattr(keeper_module, "ask_as_host", self.ask)
        patch.setattr(visitor_module, "ask_as_host", self.ask)
        self.keeper = self.again()

    def again(self) -> Keeper:
        """A new process."""
        def make_door(*_: object) -> FakeDoor:
            self.doors.append(FakeDoor())
            return self.doors[-1]

        self.keeper = Keeper(self.folder, self.services, self.data, make_door, self.clock)
        return self.keeper

    def ask(self, folder: ClusterFolder, address: str, source: str, call: str,
            fields: dict[str, Any]) -> dict[str, Any]:
        assert source == THERE
        self.asked.append((address, call))
        if address in self.elsewhere:
            return self.elsewhere[address]
        if address != HERE or self.house.kv.store.away:
            raise NobodyAnswers(f"nobody at {address}")
        answers = self.house.enrolment
        return {"member": lambda: answers.become_member(TWO), "tell": lambda: answers.tell(TWO),
                "renew": lambda: answers.renew(TWO, fields)}[call]()

    def expect_member(self, name: str = "") -> Member:
        """As the steward does."""
        self.house.records.set_role(TWO, Role.MEMBER)
        member = Member(8, name, (peer_url(THERE),), (client_url(THERE),) if name else (),
                        is_learner=not name)
        self.house.members.listed.append(member)
        return member

    def become_member(self) -> None:
        self.expect_member()
        assert self.keeper.tick()
        self.house.members.listed[-1] = replace(
            self.house.members.listed[-1], name=TWO, client_urls=(client_url(THERE),),
            is_learner=False)
        self.house.members.running.add(8)
        self.data.mkdir()
        (self.data / "db").write_text("records")
        while self.keeper.tick():
            pass
        self.services.done.clear()

    def state(self) -> object:
        return ({path: path.read_bytes() for path in self.folder.path.rglob("*")},
                self.data.exists(), set(self.services.running))


class Members:
    """EtcdMembers over the fake."""

    def __init__(self, house: House) -> None:
        self._house = house

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if self._house.kv.store.away:
            def fail(*_: object) -> None:
                raise StoreUnavailable("etcd is away (fake)")
            return fail
        return getattr(self._house.members, name)


@pytest.fixture
def two(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(house, monkeypatch)
    yield made
    made.keeper._held.close()


def test_it_tells_that_the_host_lives(two: Host) -> None:
    assert not two.keeper.tick()
    assert two.house.records.alive() == {TWO}
    leases = two.house.kv.store.leases
    assert [ttl_s for ttl_s, _ in leases.values()] == [ALIVE_S]
    two.keeper.tick()
    assert len(leases) == 1
    with two.house.kv.store.changed:
        two.house.kv.store.end_lease(next(iter(leases)))  # the keeper was frozen
    assert two.house.records.alive() == frozenset()
    two.keeper.tick()
    assert two.house.records.alive() == {TWO}


def test_a_client_does_nothing_else(two: Host) -> None:
    before = two.state()
    for _ in range(5):
        two.keeper.tick()
    assert (two.services.done, two.doors, two.asked) == ([], [], [])
    assert len(before) == len(two.state())  # type: ignore[arg-type]
    assert not two.folder.is_member


def test_it_writes_down_where_etcd_and_the_hosts_are(two: Host) -> None:
    two.keeper.tick()
    assert two.folder.endpoints() == (client_url(HERE),)
    assert two.folder.read("hosts").decode().split() == [HERE, THERE]
    two.house.members.listed += [
        Member(9, "3" * 32, (peer_url("127.0.0.3"),), (client_url("127.0.0.3"),)),
        Member(10, "", (peer_url("127.0.0.4"),), (), is_learner=True)]
    two.house.members.running.add(9)
    assert two.keeper.tick()
    assert set(two.folder.endpoints()) == {client_url(HERE), client_url("127.0.0.3")}
    assert not two.keeper.tick()


def test_lost_records_of_hosts_do_not_empty_the_file(two: Host) -> None:
    """Whom to ask when etcd is away, and whether this is the last host, stands there."""
    two.keeper.tick()
    for each in two.house.records.hosts():
        two.house.kv.commit([], [Delete(keys.cluster_host(each.id))])
    two.keeper.tick()
    assert two.folder.read("hosts").decode().split() == [HERE, THERE]


def test_it_becomes_a_member(two: Host) -> None:
    two.data.mkdir()  # of a time before
    two.expect_member()
    assert two.keeper.tick()
    assert two.folder.is_member
    assert two.services.running == {ETCD}
    assert two.services.done == ["stop slim-etcd", "start slim-etcd"]
    assert not two.data.exists()
    assert two.folder.authority() == two.house.authority
    text = two.folder.read("etcd.env").decode()
    assert f"ETCD_INITIAL_CLUSTER={'1' * 32}={peer_url(HERE)},{TWO}={peer_url(THERE)}" in text
    assert "ETCD_INITIAL_CLUSTER_STATE=existing" in text
    assert [call for _, call in two.asked] == ["member"]
    two.keeper.tick()
    assert [door.opened for door in two.doors] == [True]


def test_only_both_together_make_it_a_member(two: Host) -> None:
    """The cluster's record of this host, and etcd's list."""
    two.house.records.set_role(TWO, Role.MEMBER)
    for _ in range(3):
        two.keeper.tick()
    two.house.records.set_role(TWO, Role.CLIENT)
    two.house.members.listed.append(Member(8, "", (peer_url(THERE),), is_learner=True))
    for _ in range(3):
        two.keeper.tick()
    assert not two.folder.is_member
    assert two.services.done == []


def test_a_member_that_has_run_does_not_come_back_empty(two: Host,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    """It would have forgotten what it had promised to the others."""
    two.expect_member(name=TWO)
    two.house.members.running.add(8)
    for _ in range(3):
        two.keeper.tick()
    assert not two.folder.is_member
    assert "slim cluster leave" in caplog.text


@pytest.mark.parametrize("at", ["ca.key", "peer.crt", "etcd.crt", "root.key", "etcd.env",
                                "stop", "start"])
def test_killed_while_it_becomes_one(two: Host, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next keeper goes on; etcd never starts with half of its files."""
    class Kill(BaseException):
        pass

    write = ClusterFolder.write

    def killed(folder: ClusterFolder, name: str, content: str | bytes) -> None:
        if name == at:
            raise Kill
        write(folder, name, content)

    def service(_: str) -> None:
        raise Kill

    two.expect_member()
    with monkeypatch.context() as patch:
        patch.setattr(ClusterFolder, "write", killed)
        if at in ("stop", "start"):
            patch.setattr(two.services, at, service)
        with pytest.raises(Kill):
            two.keeper.tick()
    assert two.folder.is_member == (at == "start")
    assert two.services.running == set()
    two.again()
    while two.keeper.tick():
        pass
    assert two.folder.is_member
    assert two.services.running == {ETCD}


def test_it_ceases_to_be_one(two: Host) -> None:
    two.become_member()
    two.house.records.set_role(TWO, Role.CLIENT)
    assert not two.keeper.tick()  # etcd still lists it
    assert two.folder.is_member
    del two.house.members.listed[-1]
    assert two.keeper.tick()
    while two.keeper.tick():
        pass
    assert not two.folder.is_member
    assert not (two.folder.path / "ca.key").exists()
    assert two.services.running == set()
    assert not two.data.exists()
    assert (two.data.with_name("etcd.old") / "db").read_text() == "records"
    assert [door.opened for door in two.doors] == [False] * len(two.doors)


@pytest.mark.parametrize("missing", ["its record", "the list", "all records", "etcd",
                                     "a readable record", "its role only"])
def test_what_is_missing_takes_nothing_away(two: Host, missing: str,
                                            caplog: pytest.LogCaptureFixture) -> None:
    two.become_member()
    before = two.state()
    key, house = keys.cluster_host(TWO), two.house
    if missing == "its record":
        house.kv.commit([], [Delete(key)])
        del house.members.listed[-1]
    elif missing == "the list":
        house.members.listed = house.members.listed[:1]
    elif missing == "all records":
        for entry in house.kv.range("/").entries:
            house.kv.commit([], [Delete(entry.key)])
    elif missing == "etcd":
        house.kv.store.away = True
    elif missing == "a readable record":
        house.kv.commit([], [Put(key, b"garbage")])
    else:
        house.records.set_role(TWO, Role.CLIENT)
    for _ in range(5):
        two.clock.now_s += ELSEWHERE_S
        with contextlib.suppress(StoreUnavailable, UnsupportedRecord):
            two.keeper.tick()
    after = two.state()
    for name in ("etcd.env", "ca.key", "etcd.key"):
        assert (two.folder.path / name).exists()
    assert (before[1:], "stop slim-etcd" in two.services.done) == (  # type: ignore[index]
        after[1:], False)  # type: ignore[index]
    if missing in ("its record", "all records"):
        assert "What runs goes on.  To come back: `slim cluster join`" in caplog.text


def test_without_etcd_others_are_asked_where_it_is(two: Host) -> None:
    two.keeper.tick()
    two.folder.put_lines("hosts", (HERE, THERE, "127.0.0.3"))
    two.house.kv.store.away = True
    two.elsewhere["127.0.0.3"] = {"generation": 1, "endpoints": [client_url("127.0.0.3")]}
    with pytest.raises(StoreUnavailable):
        two.keeper.tick()
    assert two.asked == []
    two.clock.now_s += ELSEWHERE_S + 1
    with pytest.raises(StoreUnavailable):
        two.keeper.tick()
    assert two.folder.endpoints() == (client_url("127.0.0.3"),)
    assert ("127.0.0.3", "tell") in two.asked
    assert (THERE, "tell") not in two.asked


def test_a_member_leaves_its_etcd_for_a_restored_one_only(two: Host) -> None:
    two.become_member()
    two.folder.put_lines("hosts", (HERE, THERE, "127.0.0.3"))
    two.house.kv.store.away = True
    for generation in (0, 1):
        two.elsewhere["127.0.0.3"] = {"generation": generation,
                                      "endpoints": [client_url("127.0.0.3")]}
        two.clock.now_s += ELSEWHERE_S + 1
        with pytest.raises(StoreUnavailable):
            two.keeper.tick()
        assert two.folder.is_member
    two.elsewhere["127.0.0.3"]["generation"] = 2
    two.clock.now_s += ELSEWHERE_S + 1
    with pytest.raises(StoreUnavailable):
        two.keeper.tick()
    assert not two.folder.is_member
    assert two.folder.endpoints() == (client_url("127.0.0.3"),)
    assert two.folder.identity().generation == 2
    assert (two.data.with_name("etcd.old") / "db").exists()


@pytest.mark.parametrize("said", [{}, {"generation": "x"}, {"generation": None}, {"generation": 9},
                                  {"generation": 9, "endpoints": None},
                                  {"generation": 9, "endpoints": []}])
def test_an_answer_that_makes_no_sense(two: Host, said: dict[str, Any]) -> None:
    two.keeper.tick()
    two.folder.put_lines("hosts", ("127.0.0.3",))
    before = two.folder.endpoints()
    two.house.kv.store.away = True
    two.elsewhere["127.0.0.3"] = said
    two.clock.now_s += ELSEWHERE_S + 1
    with pytest.raises(StoreUnavailable):
        two.keeper.tick()
    assert two.folder.endpoints() == before
    assert two.folder.identity().generation == 1


def test_only_where_etcd_leads_members_are_chosen(two: Host, house: House) -> None:
    two.become_member()
    for number in (3, 4):
        three = house.enter(ClusterHost(f"{number}" * 32, "x", f"127.0.0.{number}", 3.0))
        house.records.tell_alive(three.id, 0)
    house.members.leads = 7
    before = list(house.members.listed)
    two.keeper.tick()
    assert house.members.listed == before
    house.members.leads = 8
    assert two.keeper.tick()
    assert len(house.members.listed) == len(before) + 1


def test_its_files_are_renewed_also_while_etcd_is_away(two: Host) -> None:
    two.become_member()
    before = two.folder.read("etcd.crt")
    two.folder.put_issued("etcd", two.house.authority.issue(
        "slim-etcd", Usage.SERVER, seconds=-5, key=two.folder.key("etcd")))
    two.folder.put_issued("root", two.house.authority.issue("root", Usage.CLIENT, seconds=HOUR_S))
    two.house.kv.store.away = True
    expired = two.folder.read("etcd.crt")
    with pytest.raises(StoreUnavailable):
        two.keeper.tick()
    assert two.folder.read("etcd.crt") not in (before, expired)


def test_its_own_certificate_is_renewed(two: Host) -> None:
    two.house.records.put_config(ClusterConfig("c" * 32, "test", certificate_s=HOUR_S))
    two.folder.put_issued("host", two.house.authority.issue(
        HOST_PREFIX + TWO, Usage.CLIENT, seconds=0.0))
    before = two.folder.read("host.crt")
    two.keeper.tick()
    assert ("127.0.0.1", "renew") in two.asked
    assert two.folder.read("host.crt") != before


def test_it_goes_on_after_any_failure(two: Host, monkeypatch: pytest.MonkeyPatch,
                                      caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Exception] = [SlimError("one of ours"), ValueError("a fault")]
    stop = threading.Event()
    monkeypatch.setattr(keeper_module, "TICK_S", 0.0)

    def tick() -> bool:
        if failures:
            raise failures.pop()
        stop.set()
        return False

    monkeypatch.setattr(two.keeper, "tick", tick)
    two.keeper.run(stop)
    assert "one of ours" in caplog.text
    assert "a round of the keeper failed" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_the_doors_port_is_taken(two: Host) -> None:
    two.become_member()

    def fail(*_: object) -> FakeDoor:
        raise OSError(98, "Address already in use")

    keeper = Keeper(two.folder, two.services, two.data, fail, two.clock)
    for _ in range(2):
        with pytest.raises(SlimError, match=r"door cannot be opened at 127.0.0.2: .*in use"):
            keeper.tick()
    keeper._held.close()
