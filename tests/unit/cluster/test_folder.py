"""Tests the folder's files: killed at any point, each is the old one or the new; only root's."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from driver.cluster.authority import Issued, Usage, new_authority
from driver.cluster.etcd.etcd_member import issue_files, set_data_aside
from driver.cluster.folder import MEMBER_FILES, ClusterFolder, Identity
from driver.errors import NotFound, SettingsError, StateError
from driver.state import durable

ME = Identity("c" * 32, "test", 1, "a" * 32, "one", "192.0.2.1")
AUTHORITY = new_authority("test")


class Kill(BaseException):
    """The process ends here."""


class Kills:
    """Ends the process before or after the n-th call to the operating system."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls, self.at, self.after = 0, 0, False
        for owner, name in ((os, "open"), (os, "fsync"), (Path, "rename"),
                            (Path, "unlink"), (Path, "mkdir")):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.at and not self.after:
                raise Kill
            done = real(*arguments, **options)
            if self.calls == self.at and self.after:
                raise Kill
            return done

        return call

    def each(self, act: Callable[[], None], look: Callable[[], None]) -> None:
        """Kill `act` at each of its calls, and look at what is left, as the next process."""
        act()
        count = self.calls
        assert count > 2
        look()
        for self.at, self.after in itertools.product(range(1, count + 1), (False, True)):
            self.calls = 0
            with pytest.raises(Kill):
                act()
            self.calls = -10 ** 6  # `look` lives on
            look()


@pytest.fixture
def folder(tmp_path: Path) -> ClusterFolder:
    return ClusterFolder(tmp_path / "etc" / "cluster")


def test_a_file_is_the_old_one_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    kills = Kills(monkeypatch)
    seen = set()

    def look() -> None:
        seen.add(path.read_text())
        durable.write(path, "old")

    kills.each(lambda: durable.write(path, "new"), look)
    assert seen == {"old", "new"}


def test_rights_are_right_from_the_first_byte_on(tmp_path: Path) -> None:
    """Also where a run that was killed has left its half with other rights."""
    path = tmp_path / "file"
    (tmp_path / "file.new").write_text("left")
    (tmp_path / "file.new").chmod(0o666)
    previous = os.umask(0)
    try:
        durable.write(path, b"secret", 0o600)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"secret"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_all_is_roots_alone(folder: ClusterFolder) -> None:
    previous = os.umask(0)
    try:
        folder.put_identity(ME)
        folder.put_issued("host", AUTHORITY.issue("x", Usage.CLIENT, seconds=1))
    finally:
        os.umask(previous)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.path.iterdir()} == {0o600}


def test_who_this_host_is(folder: ClusterFolder) -> None:
    assert not folder.exists
    with pytest.raises(NotFound, match="slim cluster join"):
        folder.identity()
    folder.put_identity(ME)
    assert folder.exists
    assert folder.identity() == ME
    for damaged in ("", "{}", "[]", "nonsense", '{"x": 1}', "\x00", "[" * 100000):
        folder.write("cluster.json", damaged)
        with pytest.raises(SettingsError, match=r"cluster\.json is damaged"):
            folder.identity()
    folder.write("cluster.json", b"\xff\xfe")
    with pytest.raises(SettingsError, match="damaged"):
        folder.identity()


def test_only_members_have_the_cas_key(folder: ClusterFolder) -> None:
    folder.write("ca.crt", AUTHORITY.certificate)
    with pytest.raises(NotFound, match="slim cluster status"):
        folder.authority()
    folder.write("ca.key", AUTHORITY.key)
    assert folder.authority() == AUTHORITY


def test_a_missing_file_is_named(folder: ClusterFolder) -> None:
    with pytest.raises(StateError, match="endpoints"):
        folder.endpoints()


def test_lines_are_written_when_they_change(folder: ClusterFolder) -> None:
    assert folder.put_lines("endpoints", ("https://192.0.2.1:1", "https://192.0.2.2:1"))
    before = (folder.path / "endpoints").stat().st_ino
    assert not folder.put_lines("endpoints", ("https://192.0.2.1:1", "https://192.0.2.2:1"))
    assert (folder.path / "endpoints").stat().st_ino == before
    assert folder.put_lines("endpoints", ("https://192.0.2.2:1",))
    assert folder.endpoints() == ("https://192.0.2.2:1",)


def pairs_fit(folder: ClusterFolder, *names: str) -> bool:
    for name in names:
        key = folder.key(name)
        again = AUTHORITY.issue("x", Usage.CLIENT, seconds=1, key=key)
        if again.key != key or public(folder.read(f"{name}.crt")) != public(again.certificate):
            return False
    return True


def public(certificate: bytes) -> object:
    from cryptography import x509
    return x509.load_pem_x509_certificate(certificate).public_key()


def test_new_certificates_fit_their_keys_at_each_moment(
        folder: ClusterFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that loses its power then has an etcd that starts."""
    issue_files(folder, AUTHORITY, "192.0.2.1", 100)
    kills = Kills(monkeypatch)
    kills.each(lambda: issue_files(folder, AUTHORITY, "192.0.2.1", 100), lambda: _fit(folder))


def _fit(folder: ClusterFolder) -> None:
    assert pairs_fit(folder, "peer", "etcd", "root")


def test_a_damaged_key_is_replaced(folder: ClusterFolder) -> None:
    issue_files(folder, AUTHORITY, "192.0.2.1", 100)
    folder.write("etcd.key", b"garbage")
    issue_files(folder, AUTHORITY, "192.0.2.1", 100)
    _fit(folder)


def test_a_host_is_a_member_until_all_that_makes_it_one_may_go(
        folder: ClusterFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> None:
        for name in MEMBER_FILES:
            (folder.path / name).write_text("x")

    folder.put_identity(ME)
    make()
    kills = Kills(monkeypatch)

    def look() -> None:
        left = {name for name in MEMBER_FILES if (folder.path / name).exists()}
        assert not folder.is_member or left == set(MEMBER_FILES)
        folder.drop_member_files()  # again
        assert not any((folder.path / name).exists() for name in MEMBER_FILES)
        assert folder.exists
        make()

    kills.each(folder.drop_member_files, look)


def test_what_a_killed_write_has_left_of_a_members_key_goes(folder: ClusterFolder) -> None:
    folder.put_identity(ME)
    for name in MEMBER_FILES:
        (folder.path / f"{name}.new").write_text("x")
    folder.drop_member_files()
    assert [each.name for each in folder.path.iterdir()] == ["cluster.json"]


def test_the_folder_goes_as_a_whole(folder: ClusterFolder, monkeypatch: pytest.MonkeyPatch
                                    ) -> None:
    def make() -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        for name in ("cluster.json", "host.crt", "host.key"):
            (folder.path / name).write_text("x")

    make()
    kills = Kills(monkeypatch)

    def look() -> None:
        assert not folder.path.exists() or len(list(folder.path.iterdir())) == 3
        if folder.path.exists():
            folder.remove()
        folder.remove()
        assert not any(folder.path.parent.iterdir())
        make()

    kills.each(folder.remove, look)


def test_put_issued_replaces_a_key_that_is_another_one(folder: ClusterFolder) -> None:
    for issued in (Issued(b"c1", b"k1"), Issued(b"c2", b"k1"), Issued(b"c3", b"k2")):
        folder.put_issued("host", issued)
        assert (folder.read("host.crt"), folder.key("host")) == (issued.certificate, issued.key)


def test_one_set_of_old_data_is_kept(tmp_path: Path) -> None:
    data = tmp_path / "etcd"
    assert set_data_aside(data) is None
    for content in ("first", "second"):
        data.mkdir()
        (data / "db").write_text(content)
        aside = set_data_aside(data)
        assert aside is not None
        assert (aside / "db").read_text() == content
        assert not data.exists()
