"""Tests `slim cluster init`: killed anywhere it goes on, and what fails is as if never typed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from driver.cluster import host as host_module
from driver.cluster import tokens
from driver.cluster.authority import fingerprint
from driver.cluster.changes import founding
from driver.cluster.changes.founding import Founding
from driver.cluster.folder import Identity
from driver.cluster.model import peer_url
from driver.cluster.records import ClusterConfig
from driver.cluster.services import DRIVER, ETCD
from driver.errors import Conflict, SlimError, StoreUnavailable
from tests.support.faults.steps import How
from tests.unit.cluster.machine import (
    HERE,
    HOST,
    KEY,
    STEPS_MAX,
    EtcdStore,
    Machine,
    another_folder,
    with_key,
)

CONFIG = ClusterConfig("c" * 32, "test", certificate_s=3600.0)
ME = Identity(CONFIG.id, CONFIG.name, 1, HOST, "one", HERE)
NOW_S = 1_700_000_000.0
MakeMachine = Callable[[], Machine]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeMachine:
    """Machines on which `make up` has been typed; its etcd has a key."""
    def made() -> Machine:
        path = another_folder(tmp_path, monkeypatch)
        machine = Machine(path, monkeypatch)
        (path / "up.env").write_text("SLIM_ETCD=http://127.0.0.1:23790\n")
        machine.put_data(machine.here.data, with_key(EtcdStore()))
        machine.start(ETCD)
        machine.start(DRIVER)
        return machine

    return made


def begin(machine: Machine, *, take_over: bool = True, me: Identity = ME, cluster: str = "c",
          token_s: float = 60.0) -> tokens.Token:
    """Type it; each time with a cluster's id that is made anew."""
    return Founding(machine.here, machine.said.append, lambda: NOW_S).begin(
        replace(me, cluster=cluster * 32), replace(CONFIG, id=cluster * 32), token_s,
        take_over=take_over)


def assert_begun(machine: Machine, *, take_over: bool) -> None:
    machine.assert_whole(machine.here.folder.identity())
    store = machine.served()
    aside = machine.path / "etcd.old"
    if take_over:
        assert KEY in store.entries
        assert store.peer == peer_url(HERE)
        assert not aside.exists()
    else:
        assert KEY not in store.entries
        assert KEY in machine.stored_in(aside).entries


def test_a_cluster_begins(make: MakeMachine) -> None:
    machine = make()
    token = begin(machine, take_over=False)
    assert_begun(machine, take_over=False)
    assert machine.here.folder.identity() == replace(ME, complete=True)
    secret = machine.records().secret()
    assert secret is not None
    assert secret.until_s == NOW_S + 60
    assert token == tokens.Token(
        fingerprint(machine.here.folder.read("ca.crt")), secret.secret)
    assert any("put aside" in text for text in machine.said)
    with pytest.raises(Conflict, match="slim cluster token"):
        begin(machine)


def test_what_make_up_began_becomes_the_clusters(make: MakeMachine) -> None:
    machine = make()
    machine.stop(ETCD)  # it is started if it does not run
    begin(machine, token_s=0.0)
    assert_begun(machine, take_over=True)
    secret = machine.records().secret()
    assert secret is not None
    assert secret.until_s == 0


def test_it_goes_on_with_what_was_begun_only(make: MakeMachine) -> None:
    machine = make()
    machine.spoilt(30, How.KILLED, lambda: begin(machine))
    before = machine.files()
    assert not machine.here.folder.identity().complete
    with pytest.raises(Conflict, match=f"--address {HERE}, or remove"):
        begin(machine, me=replace(ME, address="192.0.2.2"))
    assert machine.files() == before


def test_the_etcd_of_make_up_does_not_answer(make: MakeMachine, monkeypatch: pytest.MonkeyPatch
                                             ) -> None:
    machine = make()
    machine.etcd, machine.etcd_starts = None, False
    monkeypatch.setattr(founding, "EMBEDDED_S", 0.01)
    before = machine.files()
    with pytest.raises(StoreUnavailable, match="cannot be taken over"):
        begin(machine)
    assert machine.files() == before


def test_etcd_does_not_come_up(make: MakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the next time: what was put aside at first is there at the end."""
    machine = make()
    monkeypatch.setattr(host_module, "ETCD_S", 0.01)
    for _ in range(2):
        machine.etcd_answers = False
        with pytest.raises(SlimError, match=r"etcd does not come up .*see slim-etcd"):
            begin(machine, take_over=False)
        assert machine.etcd is None
        assert not machine.here.folder.path.exists()
    machine.etcd_answers = True
    begin(machine, take_over=False)
    assert_begun(machine, take_over=False)


def test_the_driver_does_not_come_up(make: MakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster is there all the same, and `slim doctor` helps."""
    machine = make()
    machine.driver_starts = False
    machine.stop(DRIVER)
    monkeypatch.setattr(host_module, "DRIVER_S", 0.01)
    with pytest.raises(SlimError, match="slim doctor"):
        begin(machine)
    machine.driver_starts = True
    machine.start(DRIVER)
    assert_begun(machine, take_over=True)


@pytest.mark.parametrize("take_over", [True, False])
def test_killed_at_each_step_and_typed_again(make: MakeMachine, take_over: bool) -> None:
    for at in range(1, STEPS_MAX):
        machine = make()
        reached, _ = machine.spoilt(at, How.KILLED, partial(begin, machine, take_over=take_over))
        if not machine.is_complete:
            begin(machine, take_over=take_over, cluster="d")
        assert_begun(machine, take_over=take_over)
        if not reached:
            break
    assert 30 < at < STEPS_MAX - 1


@pytest.mark.parametrize(("how", "take_over"), [
    (How.FAILS, True), (How.FAILS, False), (How.DONE, True)])
def test_failing_at_each_step_and_typed_again(make: MakeMachine, how: How, take_over: bool) -> None:
    """Until the cluster answers, all is as before; what was put aside stays there."""
    taken_back = 0
    for at in range(1, STEPS_MAX):
        machine = make()
        before = machine.files()
        reached, error = machine.spoilt(at, how, partial(begin, machine, take_over=take_over))
        if error is not None and "status" not in machine.steps.names[:at]:
            taken_back += 1
            assert not machine.here.folder.path.exists()
            if take_over:
                assert machine.files() == before
                assert machine.etcd == (machine.data_store(), False)
            else:
                assert sorted(machine.files().values()) == sorted(before.values())
                assert machine.etcd is None or not machine.etcd[1]
        if not machine.is_complete:
            assert isinstance(error, SlimError | OSError)
            begin(machine, take_over=take_over, cluster="d")
        assert_begun(machine, take_over=take_over)
        if not reached:
            break
    assert at < STEPS_MAX - 1
    assert taken_back > 15
