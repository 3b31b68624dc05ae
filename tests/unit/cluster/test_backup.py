"""Tests `slim cluster backup`, whole or spoilt, and `tidy`: all or nothing."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from driver.cluster.changes import saving
from driver.cluster.changes.saving import back_up, tidy
from driver.cluster.services import ETCD
from driver.errors import InvalidArgument, NotFound, SlimError, StoreUnavailable
from driver.store.format import keys
from tests.support.faults.steps import How
from tests.unit.cluster.machine import HERE, STEPS_MAX
from tests.unit.cluster.member import CONFIG, MakeMember, make

__all__ = ["make"]


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
    for target, steps in ((one.backup, 6), (one.path / "new", 4)):
        before = one.files()
        for at in range(1, STEPS_MAX):
            reached, error = one.spoilt(at, How.FAILS, partial(back_up, one.here.folder, target))
            if not reached:
                break
            assert isinstance(error, SlimError)
            assert one.files() == before
        # The configuration, the snapshot, its end, the link, over another one a second link, and
        # the rename.
        assert at == steps + 1, at
    one.here.folder.path.joinpath("ca.crt").unlink()  # a client by now
    before = one.files()
    with pytest.raises(SlimError):
        back_up(one.here.folder, one.backup)
    assert one.files() == before


def everything(path: Path) -> set[Path]:
    return set(path.rglob("*"))


def test_a_backup_that_is_killed_leaves_nothing(make: MakeMember) -> None:
    """Over another one it may leave itself, whole and for its owner alone, until the next one."""
    one = make()
    for target in (one.path / "new", one.backup):
        old = target.read_bytes() if target.exists() else b""
        half = target.with_name(target.name + ".new")
        left = 0
        for at in range(1, STEPS_MAX):
            before = everything(one.path)
            reached, _ = one.spoilt(at, How.KILLED, partial(back_up, one.here.folder, target))
            if not reached:
                break
            more = everything(one.path) - before
            assert more <= {half, target}
            assert not old or target.read_bytes() == old
            for each in more:
                assert each.stat().st_mode & 0o777 == 0o600
                tarfile.open(each).close()
            left += half in more
            back_up(one.here.folder, target)
            assert not half.exists()
            old = target.read_bytes() if old else b""
            if not old:
                target.unlink()
        assert at >= 5
        assert left == (1 if old else 0)


def test_where_no_file_can_be_nameless(make: MakeMember, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS; it is made for its owner alone, and removed if it fails, or by the next one."""
    opened = os.open

    def refuses(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return opened(path, flags, mode, **options)

    one = make()
    monkeypatch.setattr(os, "open", refuses)
    target = one.path / "new"
    half = one.path / "new.new"
    for at in range(1, STEPS_MAX):
        reached, _ = one.spoilt(at, How.KILLED, partial(back_up, one.here.folder, target))
        if not reached:
            break
        assert not half.exists() or half.stat().st_mode & 0o777 == 0o600
        one.spoilt(at, How.FAILS, partial(back_up, one.here.folder, target))
        assert not half.exists()
        assert not target.exists()
    assert target.stat().st_mode & 0o777 == 0o600
    back_up(one.here.folder, target)
    assert not half.exists()


def test_a_backup_whose_ca_goes_meanwhile(make: MakeMember, monkeypatch: pytest.MonkeyPatch
                                          ) -> None:
    """The host becomes a client: the keeper removes the key."""
    one = make()
    key = one.here.folder.path / "ca.key"
    monkeypatch.setattr(saving, "OneMember", lambda *_: SimpleNamespace(
        close=lambda: None, snapshot=lambda *_: key.unlink()))
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
