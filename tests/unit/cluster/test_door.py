"""Tests the door over real TLS: who comes in by which certificate, and what floods do to others."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from driver.api import door as door_module
from driver.api.door import BODY_MAX_BYTES, FROM_ONE, LIFE_S, DoorServer, create_door
from driver.cluster.authority import HOST_PREFIX, Usage, new_authority, new_request, validity
from driver.cluster.door import visitor
from driver.cluster.door.enrolment import canonical
from driver.cluster.door.visitor import (
    NobodyAnswers,
    Refused,
    ask_as_host,
    ask_as_stranger,
    introduce,
)
from driver.cluster.etcd import etcd_member
from driver.cluster.model import ClusterHost
from tests.support.run.wait import wait_until
from tests.unit.cluster.house import HERE, HOUR_S, NOW_S, House

TWO = "2" * 32
THERE = "127.0.0.2"  # another host's, on loopback
LIMIT_S = 20.0


@pytest.fixture
def two(house: House) -> ClusterHost:
    return house.enter(ClusterHost(TWO, "two", THERE, 2.0))


def connect(door: DoorServer, source: str = HERE) -> socket.socket:
    return socket.create_connection((HERE, door.server_port), LIMIT_S, (source, 0))


def tls(door: DoorServer, house: House, source: str = HERE) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=house.folder.path / "ca.crt")
    context.check_hostname = False
    return context.wrap_socket(connect(door, source))


def say(door: DoorServer, house: House, text: bytes) -> tuple[int, dict[str, object]]:
    """Return the status, and the answer as an object."""
    with tls(door, house) as connection:
        connection.sendall(text)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # it has not read all
            while part := connection.recv(65536):
                answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def post(path: str, body: bytes = b"", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST {path} HTTP/1.0\r\nContent-Length: {size}\r\n\r\n".encode() + body


def test_from_the_token_to_a_certificate_that_opens_the_door(house: House, door: DoorServer
                                                             ) -> None:
    token = house.token()
    said = introduce(HERE, THERE, token)
    assert (said["cluster"], said["host"]) == ("test", "one")
    request, key = new_request("two")
    fields = {"host": TWO, "name": "two", "address": THERE, "csr": request.decode(),
              "token": token.name, "now": NOW_S}
    answer = ask_as_stranger(HERE, THERE, said["ca"], "join", {
        **fields, "proof": token.proof(canonical(fields))})
    folder = house.visitor_folder(TWO)
    folder.write("host.key", key)
    folder.write("host.crt", answer["certificate"])
    assert ask_as_host(folder, HERE, THERE, "tell", {})["cluster"] == "c" * 32
    assert ask_as_host(folder, HERE, THERE, "leave", {"done": True}) == {"out": True}
    with pytest.raises(Refused, match="has been removed"):
        ask_as_host(folder, HERE, THERE, "tell", {})


CALLS = ("renew", "member", "tell", "leave", "stay")


@pytest.mark.parametrize("call", CALLS)
def test_who_has_no_certificate(house: House, door: DoorServer, call: str) -> None:
    before = house.state()
    with pytest.raises(Refused, match="certificate is wanted"):
        ask_as_stranger(HERE, HERE, house.authority.certificate.decode(), call, {})
    assert house.state() == before


@pytest.mark.parametrize("kind", ["another CA's", "expired", "not yet valid", "a server's"])
def test_certificates_that_are_none(house: House, door: DoorServer, two: ClusterHost, kind: str,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitor, "has_expired", lambda _: False)  # who asks keeps to no rule
    authority = new_authority("test") if kind == "another CA's" else house.authority
    issued = authority.issue(HOST_PREFIX + TWO,
                             Usage.SERVER if kind == "a server's" else Usage.CLIENT,
                             seconds=-10 if kind == "expired" else HOUR_S)
    if kind == "not yet valid":
        with pytest.MonkeyPatch.context() as patch:
            from driver.cluster import authority as module
            now = module._now()
            patch.setattr(module, "_now", lambda: now + 3 * module.CLOCK_SKEW)
            issued = authority.issue(HOST_PREFIX + TWO, Usage.CLIENT, seconds=HOUR_S)
    folder = house.visitor_folder(TWO, issued)
    before = house.state()
    for call in CALLS:
        with pytest.raises(NobodyAnswers):
            ask_as_host(folder, HERE, THERE, call, {"done": True})
    assert house.state() == before


def test_a_host_whose_certificate_has_expired_says_so(house: House, door: DoorServer) -> None:
    issued = house.authority.issue(HOST_PREFIX + TWO, Usage.CLIENT, seconds=-10)
    with pytest.raises(Refused, match="has expired: type `slim cluster join"):
        ask_as_host(house.visitor_folder(TWO, issued), HERE, THERE, "tell", {})


@pytest.mark.parametrize("name", ["root", "slim-peer", "slim-etcd", "", "hosthost-", "host"])
def test_certificates_of_the_cluster_that_are_no_hosts(house: House, door: DoorServer, name: str
                                                       ) -> None:
    issued = house.authority.issue(name or "x", Usage.PEER, seconds=HOUR_S)
    folder = house.visitor_folder(TWO, issued)
    for call in CALLS:
        with pytest.raises(Refused, match="certificate is wanted"):
            ask_as_host(folder, HERE, HERE, call, {})


def test_a_removed_host_has_a_good_certificate_and_is_refused(house: House, door: DoorServer
                                                              ) -> None:
    folder = house.visitor_folder(TWO)
    for call in ("renew", "member", "tell"):
        with pytest.raises(Refused, match="has been removed"):
            ask_as_host(folder, HERE, THERE, call, {"csr": "x"})
    before = house.state()
    assert ask_as_host(folder, HERE, THERE, "leave", {"done": True}) == {"out": True, "gone": True}
    assert house.state() == before


def test_a_host_speaks_for_itself_only(house: House, door: DoorServer, two: ClusterHost) -> None:
    """Whatever it writes into its request: its certificate says who it is."""
    three = house.enter(replace(two, id="3" * 32, name="three", address="127.0.0.3"))
    ask_as_host(house.visitor_folder(TWO), HERE, THERE, "leave", {
        "host": three.id, "host_id": three.id, "done": True})
    assert house.records.host(TWO) is None
    assert house.records.host(three.id) == three


def test_a_request_that_is_too_large_is_not_read(house: House, door: DoorServer) -> None:
    status, answer = say(door, house, post("/join", b"", BODY_MAX_BYTES + 1))
    assert status == 413
    assert "error" in answer


@pytest.mark.parametrize("body", [b"garbage", b"[]", b'"x"', b"null", b"\xff\xfe", b"{",
                                  b"[" * 60000, b'{"a":' * 10000, b"1" * 5000])
def test_garbage(house: House, door: DoorServer, body: bytes) -> None:
    status, answer = say(door, house, post("/join", body))
    assert status == 400
    assert "error" in answer


def test_what_is_no_call(house: House, door: DoorServer) -> None:
    for text, status in ((post("/nothing"), 404), (b"GET /introduce HTTP/1.0\r\n\r\n", 405),
                         (b"OPTIONS /introduce HTTP/1.0\r\n\r\n", 405),
                         (post("/../introduce"), 404), (b"GET / HTTP/1.0\r\n\r\n", 404)):
        found, answer = say(door, house, text)
        assert (found, list(answer)) == (status, ["error"]), text


def test_what_is_no_http(house: House, door: DoorServer, caplog: pytest.LogCaptureFixture) -> None:
    for text in (b"\x00" * 100 + b"\r\n", b"SSH-2.0\r\n", b"\r\n\r\n", b"POST\r\n\r\n",
                 b"POST /join HTTP/9.9\r\n\r\n", b"POST /join HTTP/1.0\r\n" + b"A: b\r\n" * 500,
                 b"POST /" + b"x" * 70000 + b" HTTP/1.0\r\n\r\n",
                 b"POST /join HTTP/1.0\r\nContent-Length: x\r\n\r\n",
                 b"POST /join HTTP/1.0\r\nContent-Length: -5\r\n\r\n"):
        with tls(door, house) as connection, contextlib.suppress(OSError):
            connection.sendall(text)
            connection.recv(10)
    assert introduce(HERE, HERE, house.token())
    assert "Traceback" not in caplog.text


def test_a_fault_of_ours_is_not_told(house: House, door: DoorServer, two: ClusterHost,
                                     caplog: pytest.LogCaptureFixture) -> None:
    house.members.list_members = lambda: 1 // 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(Refused, match="it failed there: see the log") as caught:
        ask_as_host(house.visitor_folder(TWO), HERE, THERE, "tell", {})
    assert "division" not in str(caught.value)
    assert "ZeroDivisionError" in caplog.text


def test_who_is_silent_does_not_keep_others_waiting(house: House, door: DoorServer) -> None:
    """Neither before TLS, nor in the middle of it, nor after."""
    with connect(door) as silent, connect(door) as half, tls(door, house) as idle:
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
        idle.sendall(b"POST /join HTTP/1.0\r\nContent-Length: 10\r\n\r\n")
        assert introduce(HERE, HERE, house.token())
        assert silent.fileno() > 0


def test_a_flood_from_one_address_leaves_room_for_others(house: House, door: DoorServer) -> None:
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(connect(door, "127.0.0.9")) for _ in range(FROM_ONE)]
        for _ in range(5):
            with connect(door, "127.0.0.9") as one_more:
                assert closed(one_more)
        assert introduce(HERE, THERE, house.token())
        flood.pop().close()
        wait_until(lambda: comes_in(house, "127.0.0.9"), LIMIT_S, "a place is free again")
    wait_until(lambda: not door._from, LIMIT_S, "all are gone")


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def comes_in(house: House, source: str) -> bool:
    try:
        return bool(introduce(HERE, source, house.token()))
    except NobodyAnswers:
        return False


def test_floods_from_everywhere_end(house: House, door: DoorServer,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """All places are taken: who comes then waits for one, and is let in when there is one."""
    monkeypatch.setattr(door, "_free", threading.BoundedSemaphore(4))
    flood = [connect(door, f"127.0.0.{number}") for number in range(20, 24)]
    wait_until(lambda: len(door._from) == 4, LIMIT_S, "they are in")
    found: list[object] = []
    other = threading.Thread(target=lambda: found.append(introduce(HERE, THERE, house.token())))
    other.start()
    flood.pop().close()
    other.join(LIMIT_S)
    assert found
    for each in flood:
        each.close()
    wait_until(lambda: not door._from, LIMIT_S, "all are gone")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def slow(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[DoorServer, Clock]]:
    clock = Clock()
    with house.opened(monkeypatch, clock) as made:
        yield made, clock


@pytest.mark.parametrize("handshake", [False, True])
def test_who_sends_a_byte_now_and_then_ends(house: House, slow: tuple[DoorServer, Clock],
                                            handshake: bool) -> None:
    """It would hold a place for ever: no read of ours takes too long."""
    door, clock = slow
    connection = tls(door, house) if handshake else connect(door)
    with connection:
        connection.sendall(b"P" if handshake else b"\x16\x03\x01\x02\x00\x01")
        wait_until(lambda: door._begun, LIMIT_S, "it is in")
        clock.now_s += LIFE_S - 1
        assert introduce(HERE, THERE, house.token())
        assert door._from[HERE] == 1
        clock.now_s += 2
        assert closed(connection)
    wait_until(lambda: not door._from, LIMIT_S, "its place is free")


def test_silence_ends_by_itself(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "TIMEOUT_S", 0.1)
    with house.opened(monkeypatch) as door, connect(door) as silent:
        assert closed(silent)


def test_new_certificates_are_shown_to_the_next(house: House, door: DoorServer) -> None:
    def until_s() -> float:
        with tls(door, house) as connection:
            shown = connection.getpeercert(binary_form=True)
        assert shown
        return validity(ssl.DER_cert_to_PEM_cert(shown).encode(), "it").until_s

    before_s = until_s()
    etcd_member.issue_files(house.folder, house.authority, HERE, 3 * HOUR_S)
    assert until_s() > before_s + HOUR_S


def test_files_that_cannot_be_read_cost_connections_and_not_the_door(house: House,
                                                                     door: DoorServer) -> None:
    certificate = house.folder.read("etcd.crt")
    for content in (b"", b"garbage"):
        house.folder.write("etcd.crt", content)
        with pytest.raises(NobodyAnswers):
            introduce(HERE, HERE, house.token())
    house.folder.write("etcd.crt", certificate)
    assert introduce(HERE, HERE, house.token())


def test_the_port_is_taken_and_stopping_twice_is_no_error(house: House, door: DoorServer) -> None:
    with pytest.raises(OSError, match="in use"):
        DoorServer(create_door(house.enrolment), HERE, door.server_port, house.folder.path)
    door.stop()
    again = DoorServer(create_door(house.enrolment), HERE, door.server_port, house.folder.path)
    again.stop()
