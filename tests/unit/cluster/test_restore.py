"""Tests `slim cluster restore`: killed anywhere it goes on, and nothing is lost by it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from driver.cluster import host as host_module
from driver.cluster.authority import HOST_PREFIX
from driver.cluster.changes import saving
from driver.cluster.changes.saving import Restoring
from driver.commands.cluster import run
from driver.errors import Conflict, SlimError
from driver.settings import Settings
from tests.support.faults.steps import How
from tests.unit.cluster.machine import HERE, STEPS_MAX
from tests.unit.cluster.member import ME, TWO, MakeMember, make

__all__ = ["make"]


def test_restore(make: MakeMember) -> None:
    one = make()
    with pytest.raises(Conflict, match="etcd works"):
        one.restore()
    one.lose_majority()
    before = one.here.folder.read("ca.crt")
    assert [host.name for host in one.restore()] == ["two"]
    one.assert_restored()
    assert one.here.folder.identity() == replace(ME, generation=2)
    assert one.here.folder.read("ca.crt") == before
    assert any("put aside" in text for text in one.said)
    with pytest.raises(Conflict, match="etcd works"):
        one.restore()


def test_restore_with_a_new_ca(make: MakeMember) -> None:
    """What the old one has signed opens nothing any more."""
    one = make()
    one.lose_majority()
    before = one.here.folder.authority()
    one.restore(new_ca=True)
    one.assert_restored()
    assert before.key not in one.files().values()
    assert before.certificate not in one.files().values()


def test_restore_on_a_new_machine(make: MakeMember) -> None:
    one = make()
    other = make()
    one.backup.rename(other.backup)
    other.lose_majority()
    other.here.folder.remove()
    other.restore()
    other.assert_restored()
    assert other.here.folder.identity() == replace(ME, generation=2)


def test_restore_on_a_machine_that_was_set_up_anew(make: MakeMember) -> None:
    """Its id is another one, and its address that of a member on record."""
    one = make()
    one.lose_majority()
    one.here.folder.remove()
    Restoring(one.here, one.said.append).restore(one.backup, "9" * 32, "one", HERE)
    assert [host.id for host in one.records().hosts()] == [TWO.id, "9" * 32]
    assert one.served().users == {HOST_PREFIX + TWO.id, HOST_PREFIX + "9" * 32}
    assert any("had this address" in said for said in one.said)


def test_restore_of_another_cluster(make: MakeMember) -> None:
    one = make()
    one.lose_majority()
    one.here.folder.put_identity(replace(ME, cluster="d" * 32))
    before = one.files(), set(one.running)
    with pytest.raises(Conflict, match="this backup is of the cluster test"):
        one.restore()
    assert (one.files(), one.running) == before


def test_restore_where_only_this_host_is_not_let_in(make: MakeMember) -> None:
    """etcd has a leader, and answers whoever may ask."""
    one = make()
    healthy = saving.EtcdMembers(one.here.folder.etcd_settings())
    store = one.served()
    store.away = True
    assert healthy.list_members()
    with pytest.raises(Conflict, match="only this host is not let in"):
        one.restore()


@pytest.mark.parametrize(("how", "stride"), [(How.KILLED, 1), (How.FAILS, 2)])
def test_restore_spoilt_at_each_step_and_typed_again(make: MakeMember, how: How, stride: int
                                                     ) -> None:
    """Also when its own etcd answers already; what etcd had before is aside at the end."""
    for at in range(1, STEPS_MAX, stride):
        one = make()
        one.lose_majority()
        reached, _ = one.spoilt(at, how, partial(one.restore, new_ca=at % 3 == 0))
        if not (one.is_complete and one.here.folder.identity().generation > 1):
            one.restore(new_ca=at % 3 == 0)
        one.assert_restored()
        if not reached:
            break
    assert 30 < at < STEPS_MAX - 1


def test_restored_etcd_does_not_come_up(make: MakeMember, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make()
    one.lose_majority()
    one.etcd_answers = False
    monkeypatch.setattr(host_module, "ETCD_S", 0.01)
    for _ in range(2):
        with pytest.raises(SlimError, match="etcd does not come up"):
            one.restore()
    one.etcd_answers = True
    one.restore()
    one.assert_restored()


def test_what_a_killed_restore_has_unpacked_goes(make: MakeMember) -> None:
    """It has all records.  The next restore has the same place, and whoever leaves removes it."""
    for at in range(1, STEPS_MAX, 3):
        one = make()
        one.lose_majority()
        one.here.folder.remove()
        reached, _ = one.spoilt(at, How.KILLED, one.restore)
        one.here.remove_data()
        assert {path.name for path in one.path.iterdir()} <= {
            "backup", "cluster", "up.env", "up.env.new"}
        if not reached:
            break
    assert 10 < at < STEPS_MAX - 1


def test_the_key_is_never_unpacked(make: MakeMember, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the work folder when etcd's records are restored is all that ever is there."""
    one = make()
    one.lose_majority()
    seen: list[str] = []
    restore = one.restore

    def watched(argv: list[str]) -> None:
        seen.extend(each.name for each in one.here.work.iterdir())
        assert one.here.work.stat().st_mode & 0o777 == 0o700
        restore(argv)

    monkeypatch.setattr(saving, "run", lambda argv, **_: watched(argv))
    one.restore()
    assert seen == ["snapshot.db"]


def test_any_command_removes_what_a_killed_restore_has_left(
        make: MakeMember, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make()
    one.here.work.mkdir()
    (one.here.work / "snapshot.db").write_text("secret")
    monkeypatch.setattr(run, "this_host", lambda _: one.here)
    monkeypatch.setattr(run, "run_status", lambda *_: 0)
    run.run_cluster(Settings(cluster=str(one.here.folder.path)), "status", {})
    assert not one.here.work.exists()


def test_one_restore_at_a_time(make: MakeMember) -> None:
    """Others leave its folder alone, and a second one is refused."""
    one = make()
    one.lose_majority()
    with one.here.workplace() as work:
        (work / "snapshot.db").write_text("x")
        one.here.drop_work()
        assert (work / "snapshot.db").exists()
        with pytest.raises(Conflict, match="another `slim cluster restore` runs"):
            one.restore()
        assert (work / "snapshot.db").exists()
    assert not work.exists()
    one.restore()
    one.assert_restored()
