"""Tests `slim cluster backup`, `restore` and `tidy`: all or nothing, and nothing is lost by it."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from driver.cluster import host as host_module
from driver.cluster.authority import HOST_PREFIX, Usage, new_authority
from driver.cluster.changes import saving
from driver.cluster.changes.saving import Restoring, back_up, tidy
from driver.cluster.etcd import etcd_member
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.model import ClusterHost, Role, client_url, peer_url
from driver.cluster.records import ClusterConfig
from driver.cluster.services import DRIVER, ETCD, KEEPER
from driver.errors import Conflict, InvalidArgument, NotFound, SlimError, StoreUnavailable
from driver.store.format import keys
from driver.store.kv.protocol import Put
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
    with_records,
)
from tests.unit.cluster.test_keeper import Kv

CONFIG = ClusterConfig("c" * 32, "test", certificate_s=3600.0)
ME = Identity(CONFIG.id, CONFIG.name, 1, HOST, "one", HERE, complete=True)
TWO = ClusterHost("2" * 32, "two", "192.0.2.2", 2.0, Role.MEMBER)
LATER = "/slim/v1/written/after/the/backup"


MADE: dict[str, bytes] = {}  # a member's folder, once made: certificates take their time


def fill(folder: ClusterFolder) -> None:
    authority = new_authority("test")
    folder.write("ca.crt", authority.certificate)
    folder.write("ca.key", authority.key)
    etcd_member.issue_files(folder, authority, HERE, 3600)
    folder.put_issued("host", authority.issue(HOST_PREFIX + HOST, Usage.CLIENT, seconds=3600))
    folder.write("etcd.env", "")
    folder.put_lines("hosts", (HERE, TWO.address))
    folder.put_lines("endpoints", (client_url(HERE), client_url(TWO.address)))
    folder.put_identity(ME)


class Member(Machine):
    """A member of a cluster, with a backup of it beside."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(path, patch)
        folder = self.here.folder
        if not MADE:
            fill(folder)
            MADE.update({each.name: each.read_bytes() for each in folder.path.iterdir()})
        folder.path.mkdir(exist_ok=True)
        for name, content in MADE.items():
            (folder.path / name).write_bytes(content)
        (path / "up.env").write_text("")
        store = with_key(with_records(EtcdStore(), CONFIG, ClusterHost(
            HOST, "one", HERE, 1.0, Role.MEMBER), TWO))
        store.auth, store.users = True, {HOST_PREFIX + HOST, HOST_PREFIX + TWO.id}
        Kv(store).commit([], [Put(keys.cluster_alive(TWO.id), b"")])
        self.put_data(self.here.data, store)
        for name in (ETCD, KEEPER, DRIVER):
            self.start(name)
        self.backup = path / "backup"
        back_up(folder, self.backup)
        Kv(store).commit([], [Put(LATER, b"y")])

    def lose_majority(self) -> None:
        self.stop(ETCD)

    def restore(self, source: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """Type it; or, of the machine, what the program etcdctl does."""
        if isinstance(source, list):
            return super().restore(source)
        return Restoring(self.here, self.said.append).restore(
            source or self.backup, HOST, "one", HERE, **options)

    def assert_restored(self) -> None:
        me = self.here.folder.identity()
        self.assert_whole(me)
        store, records = self.served(), self.records()
        assert (store.peer, store.token) == (peer_url(HERE), f"{me.cluster}-{me.generation}")
        assert me.generation > 1
        assert KEY in store.entries
        assert LATER not in store.entries
        assert records.host(TWO.id) == replace(TWO, role=Role.CLIENT)
        assert records.alive() == frozenset()
        assert self.here.folder.read("hosts").decode().split() == [HERE, TWO.address]
        assert LATER in self.stored_in(self.path / "etcd.old").entries


MakeMember = Callable[[], Member]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeMember:
    def made() -> Member:
        path = another_folder(tmp_path, monkeypatch)
        return Member(path, monkeypatch)

    return made


def test_a_backup(make: MakeMember) -> None:
    one = make()
    assert one.backup.stat().st_mode & 0o777 == 0o600
    assert back_up(one.here.folder, one.backup) == one.backup.stat().st_size
    with tarfile.open(one.backup) as tar:
        assert tar.getnames() == ["cluster.json", "ca.crt", "ca.key", "snapshot.db"]
        about = json.load(tar.extractfile("cluster.json") or io.BytesIO())
    assert about["config"] == asdict(CONFIG)


def test_a_backup_that_fails_leaves_nothing(make: MakeMember) -> None:
    """The one of before stays; what is half has the CA's key in it."""
    one = make()
    for target in (one.backup, one.path / "new"):
        before = one.files()
        for at in range(1, STEPS_MAX):
            reached, error = one.spoilt(at, How.FAILS, partial(back_up, one.here.folder, target))
            if not reached:
                break
            assert isinstance(error, SlimError)
            assert one.files() == before
            assert not list(one.path.glob("slim-backup*"))
        assert at == 4  # the configuration, the snapshot, the rename, and none more
    one.here.folder.path.joinpath("ca.crt").unlink()  # a client by now
    before = one.files()
    with pytest.raises(SlimError):
        back_up(one.here.folder, one.backup)
    assert one.files() == before


def test_a_backup_whose_ca_goes_meanwhile(make: MakeMember, monkeypatch: pytest.MonkeyPatch
                                          ) -> None:
    """The host becomes a client: the keeper removes the key."""
    one = make()
    key = one.here.folder.path / "ca.key"
    monkeypatch.setattr(saving, "Etcdctl", lambda _: lambda *arguments, **__: (
        Path(arguments[2]).touch(), key.unlink()))
    target = one.path / "new"
    with pytest.raises(SlimError, match=r"ca\.key"):
        back_up(one.here.folder, target)
    assert sorted(each.name for each in one.path.iterdir()) == [
        "backup", "cluster", "etcd", "up.env"]
    with pytest.raises(NotFound, match="on etcd's members only"):
        back_up(one.here.folder, target)


@pytest.mark.parametrize("target", ["etcd", "no-such-folder/x", "backup/x", "etcd/.."])
def test_a_backup_that_cannot_be_written(make: MakeMember, target: str) -> None:
    one = make()
    before = one.files()
    with pytest.raises(InvalidArgument, match=target.partition("/")[0]):
        back_up(one.here.folder, one.path / target)
    assert one.files() == before


def test_a_backup_of_no_configuration(make: MakeMember) -> None:
    one = make()
    one.served().entries.pop(keys.CLUSTER_CONFIG)
    with pytest.raises(NotFound, match="configuration is missing"):
        back_up(one.here.folder, one.backup)


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


def rewritten(change: Callable[[dict[str, bytes]], object]) -> Callable[[bytes], bytes]:
    """A whole tar with other contents."""
    def spoil(backup: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(backup)) as tar:
            files = {name: (tar.extractfile(name) or io.BytesIO()).read()
                     for name in tar.getnames()}
        change(files)
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w:gz") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return made.getvalue()

    return spoil


def with_json(text: str) -> Callable[[bytes], bytes]:
    return rewritten(lambda files: files.update({"cluster.json": text.encode()}))


def with_config(**fields: Any) -> Callable[[bytes], bytes]:
    return with_json(json.dumps({"config": {**asdict(CONFIG), **fields}, "made_s": 1.0}))


def flipped(part: float) -> Callable[[bytes], bytes]:
    return lambda whole: (whole[:(at := int(len(whole) * part))] + bytes([whole[at] ^ 0x55])
                          + whole[at + 1:])


def broken_inside(whole: bytes) -> bytes:
    """No deflate from some byte of the snapshot on (RFC 1951: there is no block of type 3)."""
    plain = gzip.decompress(rewritten(lambda files: files.update(
        {"snapshot.db": b"x" * 100_000}))(whole))[:40_000]
    size = len(plain)
    return (gzip.compress(b"")[:10] + b"\x00" + size.to_bytes(2, "little")
            + (size ^ 0xffff).to_bytes(2, "little") + plain + b"\x07" + b"x" * 100)


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"", "no gzip": lambda _: b"x" * 5000,
    "no tar": lambda _: gzip.compress(b"x" * 5000), "no more gzip": gzip.decompress,
    **{f"cut at {part}": lambda whole, part=part: whole[:int(len(whole) * part)]  # type: ignore[misc]
       for part in (0.001, 0.1, 0.5, 0.9)},
    **{f"cut by {end}": lambda whole, end=end: whole[:-end]  # type: ignore[misc]
       for end in (1, 8, 9, 30)},
    **{f"flipped at {part}": flipped(part) for part in (0.1, 0.3, 0.5, 0.7, 0.9, 0.999)},
    **{f"without {name}": rewritten(lambda files, name=name: files.pop(name))  # type: ignore[misc]
       for name in ("cluster.json", "ca.crt", "ca.key", "snapshot.db")},
    "broken inside": broken_inside,
    "no UTF-8": rewritten(lambda files: files.update({"cluster.json": b"\xff"})),
    "no JSON": with_json("{"), "a list": with_json("[]"), "no fields": with_json("{}"),
    "no moment": with_json(json.dumps({"config": asdict(CONFIG)})),
    "no generation": with_config(generation="x"), "a name of another kind": with_config(name=1)}


def test_a_spoilt_backup_changes_nothing(make: MakeMember) -> None:
    one = make()
    one.lose_majority()
    whole = one.backup.read_bytes()
    for name, spoil in SPOILT.items():
        one.backup.write_bytes(spoil(whole))
        before = one.files(), set(one.running)
        _, error = one.spoilt(STEPS_MAX, How.FAILS, one.restore)
        assert isinstance(error, InvalidArgument), name
        assert "is no backup of slim" in str(error)
        assert (one.files(), one.running) == before, name
    one.backup.write_bytes(whole)
    one.restore()


def test_no_file(make: MakeMember) -> None:
    one = make()
    one.lose_majority()
    before = one.files(), set(one.running)
    with pytest.raises(InvalidArgument, match="does not exist"):
        one.restore(one.path / "none")
    with pytest.raises(InvalidArgument, match="is no backup of slim"):
        one.restore(one.path / "cluster")
    with tarfile.open(one.backup, "w:gz") as tar:
        for name in ("cluster.json", "ca.crt", "ca.key", "snapshot.db"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
    with pytest.raises(InvalidArgument, match=r"cluster\.json is no file"):
        one.restore()
    one.backup.unlink()
    before[0].pop(one.backup)
    assert (one.files(), one.running) == before


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


def test_tidy(make: MakeMember) -> None:
    one = make()
    said: list[str] = []
    store = one.served()
    tidy(one.here.folder, said.append)
    assert store.compacted == store.revision
    assert said == ["compacted", f"defragmented the member at {HERE}"]
    store.alarms.append("NOSPACE")
    tidy(one.here.folder, said.append)
    assert store.alarms == []
    assert said[-1] == "lifted etcd's alarms"
    one.stop(ETCD)
    with pytest.raises(StoreUnavailable):
        tidy(one.here.folder, said.append)
    one.here.folder.drop_member_files()
    with pytest.raises(NotFound, match="on etcd's members only"):
        tidy(one.here.folder, said.append)
