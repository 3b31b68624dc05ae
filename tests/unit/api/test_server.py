"""Tests the server's socket: its mode, stale files, a graceful end, many calls at once."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from driver.api.app import create_app
from driver.api.ipam_driver import IpamDriver
from driver.api.network_driver import NetworkDriver
from driver.api.refusal import create_refusing_app
from driver.api.server import ApiServer, Listener, SocketInUseError, bind
from driver.commands.control_client import NotRunningError, ask
from driver.compose.parts.part import Driver, Part, nothing
from driver.compose.refusing import refuse_all, refuse_who_waits
from driver.errors import LinkError, SettingsError, SlimError
from driver.state import host
from tests.support.world.client import Dockerd


def respond(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"{}"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "plugins" / "slim.sock")


def test_mode_and_unlink(path: str) -> None:
    server = ApiServer(respond, path, threads=1)
    server.start()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert Dockerd(path).raw("x", b"").body == b"{}"
    server.stop()
    server.stop()
    assert not os.path.exists(path)
    assert not any(thread.name == "api" for thread in threading.enumerate())


class SeenAtOnce(threading.Event):
    """An event whose set(), in another thread, returns once the server's thread has ended."""

    def set(self) -> None:
        super().set()
        for thread in threading.enumerate():
            if thread.name == "api" and thread is not threading.current_thread():
                thread.join()


def test_a_server_that_ends_at_once_is_stopped_all_the_same(
        path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ApiServer(respond, path, threads=1)
    # Inside: no order of calls from outside makes the thread run between these two instructions.
    monkeypatch.setattr(server, "_stopping", SeenAtOnce())
    server.start()
    server.stop()
    assert not any(thread.name == "api" for thread in threading.enumerate())


def test_who_calls_too_early_is_answered_later(path: str) -> None:
    listener = Listener(path)
    with ThreadPoolExecutor() as pool, socket.socket(socket.AF_UNIX) as early:
        early.connect(path)  # as dockerd does, seconds before the driver is ready
        early.sendall(b"POST /x HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\n\r\n")
        answer = pool.submit(early.recv, 4096)
        server = ApiServer(respond, path, threads=1, listener=listener)
        server.start()
        assert answer.result(10).startswith(b"HTTP/1.1 200 OK")
        server.stop()
    listener.close()


def test_a_start_that_fails_leaves_no_socket(path: str) -> None:
    listener = Listener(path)
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(path)
        listener.close()
        assert not os.path.exists(path)
        with pytest.raises(ConnectionResetError):
            early.recv(1)
    successor = Listener(path)
    listener.unlink()  # now another process's
    assert os.path.exists(path)
    successor.close()


def test_a_stale_socket_is_replaced(path: str) -> None:
    bind(path).close()  # as a killed driver leaves it
    assert os.path.exists(path)
    server = ApiServer(respond, path, threads=1)
    server.start()
    assert Dockerd(path).raw("x", b"").status == 200
    server.stop()


def test_somebody_else_listens(path: str) -> None:
    with bind(path) as listener:
        listener.listen()
        with pytest.raises(SocketInUseError, match="another process serves"):
            ApiServer(respond, path).start()
        assert os.path.exists(path)


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "slim.sock").write_text("precious")
    with pytest.raises(SocketInUseError, match="no socket"):
        bind(str(tmp_path / "slim.sock"))
    assert (tmp_path / "slim.sock").read_text() == "precious"


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(SocketInUseError, match="107 bytes"):
        bind(f"/{'x' * 120}.sock")
    (tmp_path / "file").write_text("")
    with pytest.raises(SocketInUseError, match="cannot serve"):
        bind(str(tmp_path / "file" / "slim.sock"))


def test_anothers_socket_is_not_unlinked(path: str) -> None:
    server = ApiServer(respond, path, threads=1)
    server.start()
    os.rename(path, path + ".old")  # keeps its inode from being used again
    successor = bind(path)
    server.stop()
    assert os.path.exists(path)
    successor.close()


def test_a_call_in_progress_is_answered_before_the_end(path: str) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        entered.set()
        assert go_on.wait(10)
        return respond(environ, start_response)

    server = ApiServer(slow, path, threads=2)
    server.start()
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(Dockerd(path).raw, "x", b"")
        assert entered.wait(10)
        stop = threads.submit(server.stop)
        while os.path.exists(path):  # stop first removes it
            pass
        go_on.set()
        assert call.result(10).status == 200
        stop.result(20)


def test_64_calls_at_once(path: str) -> None:
    together = threading.Barrier(64, timeout=20)

    def meet(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        together.wait()  # returns only if all 64 are served at the same time
        return respond(environ, start_response)

    server = ApiServer(meet, path)
    server.start()
    with ThreadPoolExecutor(64) as threads:
        replies = list(threads.map(lambda _: Dockerd(path).raw("x", b"").status, range(64)))
    server.stop()
    assert replies == [200] * 64


def test_asking_the_daemon(path: str) -> None:
    with pytest.raises(NotRunningError):
        ask(path, "Slim.Status")

    def refuse(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b'{"Err":"no such thing"}' if environ["PATH_INFO"] == "/a" else b"[]"]

    server = ApiServer(refuse, path, threads=1)
    server.start()
    with pytest.raises(SlimError, match="no such thing"):
        ask(path, "a")
    with pytest.raises(SlimError, match="no object"):
        ask(path, "b")
    server.stop()


def test_host_id_is_made_once(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = host.host_id(state)
    assert len(first) == 32
    assert host.host_id(state) == first
    (state / "host-id").write_text("damaged")
    with pytest.raises(SettingsError, match="host-id"):
        host.host_id(state)
    with pytest.raises(SettingsError, match="--state"):
        host.host_id(state / "host-id")


def test_state_folder_has_one_user(tmp_path: Path) -> None:
    lock = host.lock_state(tmp_path)
    with pytest.raises(SettingsError, match="another driver"):
        host.lock_state(tmp_path)
    os.close(lock)
    os.close(host.lock_state(tmp_path))


@pytest.mark.parametrize(("mounts", "found"), [
    ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "/sys/fs/cgroup"),
    ("tmpfs /x tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
     "/sys/fs/cgroup/unified"), ("cgroup2 /a tmpfs rw 0 0\n", None)])
def test_cgroup2_mount(tmp_path: Path, mounts: str, found: str | None) -> None:
    (tmp_path / "mounts").write_text(mounts)
    if found is None:
        with pytest.raises(SettingsError, match="--cgroup"):
            host.cgroup2_mount(str(tmp_path / "mounts"))
    else:
        assert host.cgroup2_mount(str(tmp_path / "mounts")) == Path(found)


def test_password_file(tmp_path: Path) -> None:
    assert host.read_password("") == ""
    (tmp_path / "password").write_text("secret word \nmore")
    assert host.read_password(str(tmp_path / "password")) == "secret word "
    for name, text in (("empty", ""), ("blank", "\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(SettingsError, match="first line"):
            host.read_password(str(tmp_path / name))
    with pytest.raises(SettingsError, match="--etcd-password-file"):
        host.read_password(str(tmp_path / "none"))


def test_a_full_queue_counts_as_a_listener(path: str) -> None:
    with bind(path) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.listen(0)
        first.connect(path)
        with pytest.raises(SocketInUseError, match="another process"):
            bind(path)


def test_a_plugin_that_refuses_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason why it could not start may have gone."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    path = str(tmp_path / "slim.sock")
    ready: list[bool] = []
    assert refuse_all(path, "no such device", "local", 0.01,
                      lambda: ready.append(os.path.exists(path))) is False
    assert ready == [True]
    assert not os.path.exists(path)
    with Listener(path).socket, pytest.raises(SocketInUseError):
        refuse_all(path, "no such device", None, 0.01)


# What dockerd asks when it first hears of a driver; it never asks a second time.
REMEMBERED = ("Plugin.Activate", "NetworkDriver.GetCapabilities", "IpamDriver.GetCapabilities",
              "IpamDriver.GetDefaultAddressSpaces")


def test_what_dockerd_remembers_is_answered_as_the_driver_will() -> None:
    """A driver whose capabilities were refused would stay unknown to that dockerd."""
    real = create_app(NetworkDriver(None, None, None, "global"),  # type: ignore[arg-type]
                      IpamDriver(None)).test_client()  # type: ignore[arg-type]
    known = create_refusing_app("no such device", "global").test_client()
    unknown = create_refusing_app("wrong", None).test_client()
    for call in REMEMBERED:
        assert known.post(f"/{call}").json == real.post(f"/{call}").json, call
        assert unknown.post(f"/{call}").status_code == 400, call
    assert known.post("/IpamDriver.RequestPool").status_code == 400


def test_who_waits_for_a_driver_that_does_not_start_is_told(path: str) -> None:
    listener = Listener(path)
    with ThreadPoolExecutor() as callers:
        call = callers.submit(Dockerd(path).raw, "NetworkDriver.CreateNetwork", b"{}")
        assert select.select([listener.socket], [], [], 30)[0]
        refuse_who_waits(listener, "local", LinkError("no such device"))
        answer = call.result(30)
    assert answer.status == 400
    assert b"slim does not start: no such device" in answer.body
    listener.close()
    assert not os.path.exists(path)


def test_nobody_waits_for_a_driver_that_does_not_start(
        path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener(path)
    monkeypatch.setattr("driver.compose.refusing.ApiServer", None)  # a use would fail
    refuse_who_waits(listener, "local", LinkError("no such device"))
    listener.close()


def test_a_part_that_does_not_start() -> None:
    """Waiting callers are told before the parts that have started stop."""
    happened = []

    def fail() -> None:
        raise LinkError("no such device")

    driver = Driver([Part("socket", nothing, lambda: happened.append("stopped")),
                     Part("links", fail, nothing)],
                    failed=lambda error: happened.append(str(error)))
    with pytest.raises(LinkError):
        driver.start()
    assert happened == ["no such device", "stopped"]
