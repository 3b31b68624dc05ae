"""Tests `slim cluster leave`: patient with doors, killed anywhere it goes on, and it leaves all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from driver.cluster import host as host_module
from driver.cluster.authority import new_authority
from driver.cluster.changes import parting
from driver.cluster.changes.parting import Leaving
from driver.cluster.door.visitor import NobodyAnswers, Refused
from driver.cluster.folder import ClusterFolder
from driver.cluster.host import ThisHost
from driver.cluster.model import ClusterHost, Member, Role, client_url, peer_url
from driver.cluster.programs import ProgramFailed
from driver.cluster.services import DRIVER, ETCD, KEEPER
from driver.errors import Conflict, SlimError, StoreUnavailable
from tests.support.faults.steps import How, Killed, Spoil, Steps
from tests.unit.cluster.house import HERE, House
from tests.unit.cluster.test_keeper import FakeServices

TWO = "2" * 32
THERE = "127.0.0.2"
STEPS_MAX = 60


class Leaver:
    """Host `two`, which runs a member, beside the house; the door is asked without a network.

    asked: addresses, calls and fields.  trouble: what the next questions come to.
    rounds: after how many questions the steward has taken the member out.
    """

    def __init__(self, house: House, patch: pytest.MonkeyPatch) -> None:
        self.house, self.path = house, house.path / "two"
        self.folder = ClusterFolder(self.path / "cluster")
        self.path.mkdir()
        shutil.copytree(house.visitor_folder(TWO).path, self.folder.path)
        self.folder.put_lines("endpoints", (client_url(THERE), client_url(HERE)))
        self.folder.put_lines("hosts", (HERE, THERE))
        identity = self.folder.identity()
        self.folder.put_identity(type(identity)(**{**vars(identity), "address": THERE}))
        for name in ("etcd", "etcd.old", "etcd.new", "restoring", "cluster.new"):
            (self.path / name).mkdir()
            (self.path / name / "db").write_text("x")
        self.driver_file = self.path / "cluster-id"  # whose its driver is
        self.driver_file.write_text("x")
        (self.path / "up.env").write_text("")
        house.enter(ClusterHost(TWO, "two", THERE, 2.0, Role.MEMBER))
        house.members.users.add(TWO)
        house.members.listed.append(Member(8, TWO, (peer_url(THERE),), (client_url(THERE),)))
        house.members.running.add(8)
        self.steps, self.services = Steps(), FakeServices({DRIVER, KEEPER, ETCD})
        watched: Any = self.steps.watch(self.services, "services", lambda _: ProgramFailed)
        self.here = ThisHost(self.folder, watched, self.path / "etcd", self.path / "up.env", "x")
        self.asked: list[tuple[str, str, dict[str, object]]] = []
        self.trouble: list[SlimError] = []
        self.rounds = 1
        self.forgotten = 0
        self.said: list[str] = []
        patch.setattr(parting, "OUT_S", 5.0)  # fails sooner
        patch.setattr(parting, "ask_as_host", self.ask)
        patch.setattr(host_module, "LOOK_S", 0.001)
        rmtree = shutil.rmtree
        patch.setattr(os, "fsync", lambda _: None)  # no test cuts the power, and it takes time

        def removed(path: Path, **options: Any) -> None:
            if self.steps.spoil.how is How.KILLED:
                self.steps.step("rmtree", OSError, lambda: rmtree(path, **options))
            else:
                rmtree(path, **options)

        patch.setattr(shutil, "rmtree", removed)

    def ask(self, _: ClusterFolder, address: str, source: str, call: str,
            fields: dict[str, object]) -> dict[str, Any]:
        assert source == THERE
        self.asked.append((address, call, fields))
        if address != HERE:
            raise NobodyAnswers(f"nobody at {address}")
        if self.trouble:
            raise self.trouble.pop(0)
        return self.steps.step(f"door {call}", NobodyAnswers, lambda: self.answer(call, fields))

    def answer(self, call: str, fields: dict[str, object]) -> dict[str, Any]:
        enrolment = self.house.enrolment
        if call == "stay":
            return enrolment.stay(TWO)
        answer = enrolment.leave(TWO, fields)
        self.rounds -= 1
        if self.rounds == 0:
            self.house.members.remove(8)
        return answer

    def forget(self) -> None:
        def act() -> None:
            assert DRIVER not in self.services.running, "it would enter it all again"
            if TWO not in self.house.members.users:
                raise StoreUnavailable("etcd lets this host in no more (fake)")
            self.forgotten += 1

        self.steps.step("forget", StoreUnavailable, act)

    def leave(self, *, last: bool = False) -> None:
        Leaving(self.here, self.forget,
                lambda: self.folder.read("hosts").decode().split(),
                self.said.append, lambda: self.driver_file.unlink(missing_ok=True)).leave(last=last)

    def state(self) -> object:
        house = self.house
        return (house.records.hosts(), set(house.members.users), list(house.members.listed),
                {path: path.read_bytes() for path in self.path.rglob("*") if path.is_file()},
                set(self.services.running))

    def assert_out(self) -> None:
        assert list(self.path.iterdir()) == []
        assert self.services.running == set()

    def assert_left(self) -> None:
        self.assert_out()
        assert self.forgotten
        assert [host.id for host in self.house.records.hosts()] == ["1" * 32]
        assert TWO not in self.house.members.users
        assert [member.id for member in self.house.members.listed] == [7]


MakeLeaver = Callable[[], Leaver]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeLeaver:
    authority = new_authority("test")

    def made() -> Leaver:
        monkeypatch.undo()
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        return Leaver(House(path, authority), monkeypatch)

    return made


@pytest.fixture
def two(make: MakeLeaver) -> Leaver:
    return make()


def test_a_host_leaves(two: Leaver) -> None:
    two.rounds = 3
    two.leave()
    two.assert_left()
    assert two.forgotten == 1
    assert two.services.done == [f"stop {name}" for name in (DRIVER, KEEPER, ETCD)]
    assert {address for address, _, _ in two.asked} == {HERE}  # its own door ends with its member
    assert [bool(fields) for _, _, fields in two.asked] == [False] * 4 + [True]


def test_the_choice_of_make_up_stays(two: Leaver) -> None:
    """A person has named an etcd since: only an empty choice is the cluster's."""
    (two.path / "up.env").write_text("SLIM_ETCD=x\n")
    two.leave()
    assert [each.name for each in two.path.iterdir()] == ["up.env"]


def test_the_last_host(two: Leaver) -> None:
    before = two.state()
    with pytest.raises(Conflict, match="without --last"):
        two.leave(last=True)
    two.folder.put_lines("hosts", (THERE,))
    before = two.state()
    with pytest.raises(Conflict, match="--last` ends the cluster"):
        two.leave()
    assert two.state() == before
    two.leave(last=True)
    two.assert_out()
    assert (two.asked, two.forgotten) == ([], 0)


def test_etcd_cannot_go_on_without_it(two: Leaver) -> None:
    two.house.members.running.discard(7)
    two.house.members.leads = 8
    two.trouble = [Refused("two cannot leave: start one first")]
    before = two.state()
    with pytest.raises(Refused, match="start one first"):
        two.leave()
    assert two.state() == before


def test_nobody_answers(two: Leaver) -> None:
    """Its own door is asked last."""
    two.trouble = [NobodyAnswers("no")]
    before = two.state()
    with pytest.raises(NobodyAnswers, match=f"nobody at {THERE}"):
        two.leave()
    assert [address for address, _, _ in two.asked] == [HERE, THERE]
    assert two.state() == before


def test_doors_that_refuse_for_a_while_are_asked_again(two: Leaver) -> None:
    """etcd chooses another leader when the member goes."""
    forgets = iter([StoreUnavailable("no leader"), None])
    answer, forget = two.answer, two.forget

    def then(call: str, fields: dict[str, object]) -> dict[str, Any]:
        said = answer(call, fields)
        two.trouble = two.trouble or ([] if len(two.asked) > 20 else [
            Refused("no leader"), NobodyAnswers("away"), StoreUnavailable("x")])
        return said

    def forget_then() -> None:
        if error := next(forgets):
            raise error
        forget()

    two.answer, two.forget = then, forget_then  # type: ignore[method-assign]
    two.leave()
    two.assert_left()
    assert len(two.asked) > 9


def test_its_member_cannot_be_taken_out(two: Leaver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host stays, and all is as if nothing had been typed."""
    two.rounds = 1000_000
    monkeypatch.setattr(parting, "OUT_S", 0.02)
    before = two.state()
    with pytest.raises(SlimError, match="This host stays in the cluster"):
        two.leave()
    assert two.asked[-1][1] == "stay"
    assert two.state() == before


@pytest.mark.parametrize("step", ["forget", "done"])
def test_etcd_goes_away_for_long(two: Leaver, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Its records would stay: so it does not go without them, and can be typed again."""
    def away(*_: object) -> Any:
        raise StoreUnavailable("etcd is away (fake)")

    monkeypatch.setattr(parting, "OUT_S", 0.02)
    with monkeypatch.context() as patch:
        if step == "forget":
            patch.setattr(two, "forget", away)
        else:
            patch.setattr(two.house.members, "remove_user", away)
        with pytest.raises(StoreUnavailable):
            two.leave()
    assert two.folder.exists
    two.leave()
    two.assert_left()


def test_a_host_that_was_removed(two: Leaver) -> None:
    """By `slim cluster remove`, on a member: it has nothing to ask, and is let in no more."""
    two.house.members.remove(8)
    two.house.members.remove_user(TWO)
    two.house.records.change_host(TWO, lambda _: None)
    two.leave()
    two.assert_out()
    assert two.forgotten == 0


@pytest.mark.parametrize("how", [How.KILLED, How.DONE, How.FAILS])
@pytest.mark.parametrize("last", [False, True])
def test_spoilt_at_each_step_and_typed_again(make: MakeLeaver, how: How, last: bool) -> None:
    """With an answer that is lost, too."""
    for at in range(1, STEPS_MAX):
        two = make()
        if last:
            two.folder.put_lines("hosts", (THERE,))
        two.steps.begin(Spoil(at, how))
        with contextlib.suppress(Killed, SlimError):
            two.leave(last=last)
        reached = two.steps.reached
        two.steps.dead, two.steps.spoil = False, Spoil(0, How.FAILS)
        if two.folder.exists:
            assert reached
            two.leave(last=last)
        two.folder.finish_removal()  # as each command does
        two.assert_out()
        if not last:
            two.assert_left()
        if not reached:
            break
    assert 2 < at < STEPS_MAX - 1


def test_a_door_that_is_being_started_again_is_waited_for(
        two: Leaver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members have changed a moment ago, as after the removal of another host."""
    monkeypatch.setattr(parting, "AGAIN_S", 0.001)
    for _ in range(3):
        ended = NobodyAnswers("nothing listens")
        ended.__cause__ = ConnectionRefusedError()
        two.trouble.append(ended)
    two.leave()
    two.assert_left()


def test_where_nothing_ever_listens_that_is_said(two: Leaver, monkeypatch: pytest.MonkeyPatch
                                                 ) -> None:
    monkeypatch.setattr(parting, "AGAIN_S", 0.001)
    monkeypatch.setattr(parting, "DOORS_S", 0.01)
    before = two.state()
    ended = NobodyAnswers("nothing listens at 127.0.0.1")
    ended.__cause__ = ConnectionRefusedError()
    two.trouble = [ended] * 10_000
    with pytest.raises(NobodyAnswers):
        two.leave()
    assert two.state() == before
