"""Tests that etcd's client follows the file of endpoints, and keeps what it knew if that is bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.errors import StoreUnavailable
from driver.state import durable
from driver.store.etcd import client as client_module
from driver.store.etcd.client import EtcdKeyValue, EtcdSettings
from driver.store.etcd.connection import Connection
from driver.store.etcd.endpoints import LOOK_S, EndpointsFile

ONE, TWO = "https://192.0.2.1:23790", "https://192.0.2.2:23790"


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += LOOK_S
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "endpoints"


def test_the_first_look_and_each_change(path: Path) -> None:
    """Who knows its URLs from elsewhere may have missed a change before it looked first."""
    durable.write(path, f"{ONE}\n")
    file = EndpointsFile(str(path), Clock())
    assert [file.changed(), file.changed()] == [(ONE,), ()]
    durable.write(path, f"{TWO}\n{ONE}\n")
    assert [file.changed(), file.changed()] == [(TWO, ONE), ()]


def test_it_is_looked_at_once_a_second(path: Path) -> None:
    now_s = [0.0]
    durable.write(path, ONE)
    file = EndpointsFile(str(path), lambda: now_s[0])
    assert file.changed() == ()
    now_s[0] += LOOK_S
    assert file.changed() == (ONE,)
    durable.write(path, TWO)
    assert file.changed() == ()
    now_s[0] += LOOK_S
    assert file.changed() == (TWO,)


@pytest.mark.parametrize("content", [
    None, b"", b"\n \n", b"garbage", b"\xff\xfe", b"ftp://192.0.2.1:1", b"https://", b"https://[::",
    b"https://192.0.2.1", b"https://192.0.2.1:x", b"https://192.0.2.1:1/x", ONE.encode() + b" x",
    b"https://u:p@192.0.2.1:1", b"\x00" * 100])
def test_what_was_known_stays(path: Path, content: bytes | None) -> None:
    durable.write(path, ONE)
    file = EndpointsFile(str(path), Clock())
    assert file.changed() == (ONE,)
    path.unlink()
    if content is not None:
        durable.write(path, content)
    assert [file.changed(), file.changed()] == [(), ()]
    durable.write(path, TWO)
    assert file.changed() == (TWO,)


def test_a_folder_or_no_file(tmp_path: Path) -> None:
    assert EndpointsFile(str(tmp_path), Clock()).changed() == ()
    assert EndpointsFile("", Clock()).changed() == ()
    file = EndpointsFile(str(tmp_path / "none"), Clock())
    assert file.changed() == ()
    durable.write(tmp_path / "none", ONE)
    assert file.changed() == (ONE,)


def test_the_client_goes_where_the_file_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections to members that stay are kept."""
    asked: list[str] = []

    def call(connection: Connection, *_: object, **__: object) -> object:
        asked.append(connection.url)
        raise client_module.NotReadyError("away")

    monkeypatch.setattr(Connection, "call", call)
    monkeypatch.setattr(client_module, "EndpointsFile", lambda name: EndpointsFile(name, Clock()))
    durable.write(path, ONE)
    with EtcdKeyValue(EtcdSettings((ONE,), endpoints_file=str(path))) as kv:
        def ask() -> list[str]:
            asked.clear()
            with pytest.raises(StoreUnavailable):
                kv.get("x")
            return list(asked)

        assert ask() == [ONE]
        kept = kv._connections[0]
        durable.write(path, f"{ONE}\n{TWO}\n")
        assert ask() == [ONE, TWO]
        assert kv._connections[0] is kept
        durable.write(path, "")
        assert ask() == [ONE, TWO]
        durable.write(path, TWO)
        assert ask() == [TWO]
        path.unlink()
        assert ask() == [TWO]
