"""Tests what a host tells whom: to a stranger nothing, and what it says to a person if it fails."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from driver.cluster.authority import HOST_PREFIX, Authority, Issued, Usage, new_authority
from driver.cluster.door import visitor
from driver.cluster.door.visitor import (
    NobodyAnswers,
    Refused,
    ask_as_host,
    ask_as_stranger,
    introduce,
)
from driver.errors import SlimError
from tests.unit.cluster.house import HERE, HOUR_S, SECRET, House

AUTHORITY = new_authority("test")


def ok(fields: object, status: str = "200 OK") -> bytes:
    return f"HTTP/1.0 {status}\r\n\r\n{json.dumps(fields)}".encode()


class Listener:
    """Accepts connections, and keeps all that it hears.  Context manager."""

    def __init__(self, folder: Path, issued: Issued | None, answer: bytes = b"",
                 version: ssl.TLSVersion | None = None) -> None:
        """issued: None: no TLS."""
        self.heard: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._context: ssl.SSLContext | None = None
        if issued is not None:
            (folder / "listener.pem").write_bytes(issued.certificate + issued.key)
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(folder / "listener.pem")
            if version:
                self._context.maximum_version = version
        self._socket = socket.create_server((HERE, 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(10)
            with connection, contextlib.suppress(OSError):
                self._talk(connection)

    def _talk(self, raw: socket.socket) -> None:
        connection = self._context.wrap_socket(raw, server_side=True) if self._context else raw
        with connection:
            if self._context is None:
                connection.sendall(self._answer)
            heard = b""
            try:
                while not (self._answer and heard.endswith(b"}")):
                    part = connection.recv(65536)
                    if not part:
                        return
                    heard += part
                if self._answer:
                    connection.sendall(self._answer)
            finally:
                self.heard.append(heard)


@pytest.fixture
def listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
           ) -> Iterator[Callable[..., Listener]]:
    with contextlib.ExitStack() as stack:
        def begin(issued: Issued | None, answer: bytes = b"",
                  version: ssl.TLSVersion | None = None) -> Listener:
            made = stack.enter_context(Listener(tmp_path, issued, answer, version))
            monkeypatch.setattr(visitor, "DOOR_PORT", made.port)
            return made

        yield begin


def server_of(authority: Authority, usage: Usage = Usage.SERVER) -> Issued:
    return authority.issue("slim-etcd", usage, seconds=HOUR_S, addresses=(HERE,))


def told(error: SlimError) -> str:
    text = str(error)
    assert "\n" not in text
    assert SECRET.decode() not in text
    return text


def test_nothing_is_sent_before_the_fingerprint_has_matched(
        house: House, listen: Callable[..., Listener]) -> None:
    """Somebody else answers at that address: he hears one question, and nothing of ours."""
    other = new_authority("other")
    listener = listen(server_of(other), ok({
        "ca": other.certificate.decode(), "now": 1, "cluster": "elsewhere", "host": "x"}))
    with pytest.raises(Refused, match=r"another cluster .*elsewhere.*nothing was told to it"):
        introduce(HERE, HERE, house.token())
    assert listener.connections == 1
    assert_silent(house, listener)


def assert_silent(house: House, listener: Listener) -> None:
    heard = b"".join(listener.heard)
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"POST /introduce HTTP/1.1"
    assert {line.split(b":")[0].lower() for line in head.splitlines()[1:]} == {
        b"host", b"accept-encoding", b"content-length"}
    assert body == b"{}"


def test_a_relay_hears_the_question_and_gets_no_further(
        house: House, listen: Callable[..., Listener]) -> None:
    """It says what the right member says, whose certificate is public; its key it has not."""
    said = ok({"ca": house.authority.certificate.decode(), "now": 1, "cluster": "test",
               "host": "one"})
    listener = listen(server_of(new_authority("test")), said)
    ca = introduce(HERE, HERE, house.token())["ca"]
    assert_silent(house, listener)
    with pytest.raises(NobodyAnswers, match=r"certificate of .* is not right"):
        ask_as_stranger(HERE, HERE, ca, "join", {"secret": "x"})
    assert len(listener.heard) == 1


@pytest.mark.parametrize("usage", [Usage.CLIENT, None])
def test_a_host_of_the_cluster_can_be_no_member_of_it(
        house: House, listen: Callable[..., Listener], usage: Usage | None) -> None:
    """Its certificate is the cluster's, and for clients; or it has signed one by its own key."""
    if usage is None:
        host = house.authority.issue(HOST_PREFIX + "2" * 32, Usage.CLIENT, seconds=HOUR_S)
        issued = server_of(Authority(host.certificate, host.key))
        issued = Issued(issued.certificate + host.certificate, issued.key)
    else:
        issued = server_of(house.authority, usage)
    listener = listen(issued, ok({}))
    folder = house.visitor_folder("2" * 32)
    for ask in (lambda: ask_as_stranger(HERE, HERE, house.authority.certificate.decode(), "join",
                                        {"x": 1}),
                lambda: ask_as_host(folder, HERE, HERE, "renew", {"x": 1})):
        with pytest.raises(NobodyAnswers, match=r"certificate of .* is not right"):
            ask()
    assert listener.heard == []


def test_a_members_certificate_that_has_ended(house: House, listen: Callable[..., Listener]
                                              ) -> None:
    listener = listen(house.authority.issue("slim-etcd", Usage.SERVER, seconds=-5))
    with pytest.raises(NobodyAnswers, match="expired"):
        ask_as_stranger(HERE, HERE, house.authority.certificate.decode(), "join", {"x": 1})
    assert listener.heard == []


def test_only_tls_of_today(house: House, listen: Callable[..., Listener]) -> None:
    listen(server_of(house.authority), ok({}), ssl.TLSVersion.TLSv1_2)
    with pytest.raises(NobodyAnswers):
        introduce(HERE, HERE, house.token())


def unused_port() -> int:
    with socket.create_server((HERE, 0)) as taken:
        return int(taken.getsockname()[1])


def test_a_closed_port(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitor, "DOOR_PORT", unused_port())
    monkeypatch.setattr(visitor, "RESTART_S", 0.0)
    with pytest.raises(NobodyAnswers) as caught:
        introduce(HERE, HERE, house.token())
    assert "nothing listens at" in told(caught.value)
    assert "slim-cluster" in str(caught.value)


def test_a_door_that_is_being_started_again(
        house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a crash or an upgrade: `join` waits for it."""
    with contextlib.ExitStack() as stack:
        listener = Listener(tmp_path, server_of(house.authority),
                            ok({"ca": house.authority.certificate.decode(), "now": 1.0}))
        monkeypatch.setattr(visitor, "DOOR_PORT", unused_port())

        def comes_up(_s: float) -> None:
            stack.enter_context(listener)
            monkeypatch.setattr(visitor, "DOOR_PORT", listener.port)

        monkeypatch.setattr(visitor.time, "sleep", comes_up)
        assert introduce(HERE, HERE, house.token())["now"] == 1.0


@pytest.mark.parametrize("tls", [False, True])
def test_who_answers_nothing(house: House, listen: Callable[..., Listener], tls: bool,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitor, "TIMEOUT_S", 2.0 if tls else 0.1)
    monkeypatch.setattr(visitor, "ANSWER_S", 0.1)
    listen(server_of(house.authority) if tls else None)
    with pytest.raises(NobodyAnswers) as caught:
        introduce(HERE, HERE, house.token())
    assert "no answer from" in told(caught.value)
    assert "open between the hosts?" in str(caught.value)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.0 400 no\r\n\r\n",
                                    b"\x00" * 50, b"\x15\x03\x01\x00\x02\x02\x28"])
def test_who_speaks_no_tls(house: House, listen: Callable[..., Listener], answer: bytes) -> None:
    listen(None, answer)
    with pytest.raises(NobodyAnswers) as caught:
        introduce(HERE, HERE, house.token())
    assert "is no slim" in told(caught.value)


@pytest.mark.parametrize("answer", [
    b"garbage", b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n<html>",
    b"HTTP/1.0 500 no\r\n\r\n<html>", b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 200000,
    b"HTTP/1.0 200 OK\r\n\r\n\xff\xfe", b"HTTP/1.0 200 OK\r\n" + b"a: b\r\n" * 300,
    b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * (3 << 20), ok([]), ok("x"), ok(None), ok({}),
    ok({"ca": None}), ok({"ca": "x"}), ok({"ca": ["x"]})])
def test_who_answers_what_slim_does_not(house: House, listen: Callable[..., Listener],
                                        answer: bytes) -> None:
    listen(server_of(AUTHORITY), answer)
    with pytest.raises(NobodyAnswers) as caught:
        introduce(HERE, HERE, house.token())
    assert "is no slim" in told(caught.value)


@pytest.mark.parametrize("now", [None, "x", [], {}, 10 ** 400])
def test_a_relay_that_knows_the_ca_and_makes_no_sense(
        house: House, listen: Callable[..., Listener], now: object) -> None:
    said = {"ca": house.authority.certificate.decode(), "now": now, "cluster": "x", "host": "y"}
    listen(server_of(AUTHORITY), ok(said))
    with pytest.raises(NobodyAnswers, match="is no slim"):
        introduce(HERE, HERE, house.token())


def test_nobody_writes_to_a_persons_terminal(house: House, listen: Callable[..., Listener]
                                             ) -> None:
    said = {"ca": house.authority.certificate.decode(), "now": 1, "cluster": "\x1b[2Jx\n",
            "host": ["\x1b"]}
    listen(server_of(AUTHORITY), ok(said))
    found = introduce(HERE, HERE, house.token())
    assert (found["cluster"], found["host"].isprintable()) == ("[2Jx", True)
    listen(server_of(AUTHORITY), ok({**said, "ca": AUTHORITY.certificate.decode()}))
    with pytest.raises(Refused) as caught:
        introduce(HERE, HERE, house.token())
    assert told(caught.value).isprintable()


def test_what_the_door_refuses_is_told_as_it_says_it(
        house: House, listen: Callable[..., Listener]) -> None:
    ca = house.authority.certificate.decode()
    for fields, text in (({"error": "because"}, "^because$"), ({}, "HTTP status 403"),
                         ({"error": "x" * 5000}, "^x{1000}$")):
        listen(server_of(house.authority), ok(fields, "403 no"))
        with pytest.raises(Refused, match=text):
            ask_as_stranger(HERE, HERE, ca, "join", {})


def test_an_address_that_is_not_this_hosts(house: House) -> None:
    with pytest.raises(NobodyAnswers, match=r"192.0.2.77 is no address of this host: see"):
        introduce(HERE, "192.0.2.77", house.token())


def test_own_files_that_cannot_be_used(house: House) -> None:
    folder = house.visitor_folder("2" * 32)
    folder.write("host.key", "garbage")
    with pytest.raises(NobodyAnswers, match=r"host\.crt cannot be used"):
        ask_as_host(folder, HERE, HERE, "tell", {})
    (folder.path / "host.key").unlink()
    with pytest.raises(NobodyAnswers, match=r"host\.crt cannot be used"):
        ask_as_host(folder, HERE, HERE, "tell", {})
    for content in ("garbage", ""):
        folder.write("ca.crt", content)
        with pytest.raises(NobodyAnswers, match=r"ca\.crt cannot be used"):
            ask_as_host(folder, HERE, HERE, "tell", {})
