"""Tests the name server's thread with real sockets: answers, forwarding, connections, its end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from driver.dns.client import PENDING_S, STREAMS_MAX, Counts
from driver.dns.server import RENEW_S, NameServer
from driver.services.ports import NameReply, Question
from tests.support.run.wait import wait_until
from tests.unit.dns.world import (
    BURST,
    ELSEWHERE,
    WAIT_S,
    WEB,
    Names,
    Sandbox,
    Scene,
    framed,
    is_closed,
    next_message,
    query,
    read,
    reply_to,
)

KEY, OTHER_KEY = "/var/run/docker/netns/k", "/var/run/docker/netns/o"


class Served(Scene):
    """A name server that serves one sandbox; its clock stands still unless the test moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.names = Names()
        self.renewed: list[bool] = []
        self.server = NameServer(self.resolve, self.renewed.append, clock=lambda: self.now_s,
                                 spent=self.names.spent_s)
        self.inside = self.sandbox()
        self.server.add(KEY, self.inside)
        self.server.start()
        self.program = self.inside.program()

    def resolve(self, sandbox_key: str, question: Question) -> NameReply | None:
        return self.names.resolve(sandbox_key, question)

    def ask(self, name: str, number: int = 1) -> tuple[int, str]:
        """Ask by a datagram, and return the answer."""
        self.program.send(query(name, number))
        return self.heard()

    def heard(self) -> tuple[int, str]:
        return read(self.program.recv(65535))

    def counts(self) -> Counts:
        return self.server.counts()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep the thread from doing anything during the block; a query is forwarded after it."""
        self.program.send(query("hold"))
        assert self.names.held.wait(WAIT_S)
        yield
        self.names.go_on.set()

    def go_round(self) -> None:
        """Wait until the thread has come round once."""
        sandbox = self.sandbox()
        self.server.add("nobody", sandbox)
        self.server.remove("nobody")
        wait_until(lambda: not sandbox.left_open(), WAIT_S, "the thread has come round")

    def until(self, **wanted: int) -> None:
        """Wait for counts; the others are nought then."""
        wait_until(lambda: self.counts() == Counts(**wanted), WAIT_S, f"counts are {wanted}")

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and wait until the thread has seen it."""
        before = len(self.renewed)
        self.now_s += seconds
        self.server.remove("nobody")  # wakes it
        wait_until(lambda: len(self.renewed) > before, WAIT_S, "the thread sees the time")


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as made:
        yield made
        if made.renewed[-1:] != [False]:
            made.server.stop()
        assert made.inside.left_open() == [], "nothing leaks"


def add(served: Served, key: str) -> Sandbox:
    made = served.sandbox()
    served.server.add(key, made)
    return made


# ------------------------------------------------------------------- datagrams
def test_a_name_of_ours_is_answered(served: Served) -> None:
    assert served.ask("web", 0xBEEF) == (0xBEEF, WEB)
    served.until(answered=1)
    assert [key for key, _ in served.names.asked] == [KEY]


def test_other_queries_go_to_dockers_unchanged_but_for_their_number(served: Served) -> None:
    asked = query("example.org", 0xBEEF)
    served.program.send(asked)
    assert served.dockers.answer_one()[2:] == asked[2:]
    assert served.heard() == (0xBEEF, ELSEWHERE)
    served.until(forwarded=1)


def test_what_cannot_be_read_goes_to_dockers_too(served: Served) -> None:
    asked = bytes((1, 2)) + b"\xff" * 30
    served.program.send(asked)
    carried, address = served.dockers.udp.recvfrom(65535)
    assert carried[2:] == asked[2:]
    served.dockers.udp.sendto(carried[:2] + b"\x80" + bytes(9), address)
    assert served.program.recv(65535) == asked[:2] + b"\x80" + bytes(9)


def test_what_is_no_message_is_dropped(served: Served) -> None:
    for odd in (b"", b"x", bytes(11)):
        served.program.send(odd)
    assert served.ask("web", 7) == (7, WEB)
    served.until(answered=1, refused=3)


def test_several_askers_with_equal_numbers(served: Served) -> None:
    askers = [served.inside.program() for _ in range(5)]
    for position, asker in enumerate(askers):
        asker.send(query(f"host{position}.example", 0x1111))
    carried = [served.dockers.udp.recvfrom(65535) for _ in askers]
    assert len({asked[:2] for asked, _ in carried}) == len(askers), "numbers of their own"
    for asked, address in reversed(carried):  # in another order
        position = asked.index(b"host") + len(b"host")
        served.dockers.udp.sendto(reply_to(asked, f"192.0.2.{chr(asked[position])}"), address)
    for position, asker in enumerate(askers):
        assert read(asker.recv(65535)) == (0x1111, f"192.0.2.{position}")


def test_an_answer_to_no_query_is_dropped(served: Served) -> None:
    served.program.send(query("example.org", 5))
    asked, address = served.dockers.udp.recvfrom(65535)
    answer = reply_to(asked)
    wrong = bytes((answer[0] ^ 0xFF,)) + answer[1:]
    for each in (wrong, b"", b"x", answer, answer):  # the last one a second time
        served.dockers.udp.sendto(each, address)
    assert served.heard() == (5, ELSEWHERE)
    assert served.ask("web", 6) == (6, WEB), "and nothing before it"


def test_a_query_that_dockers_does_not_answer_ends_and_is_counted(served: Served) -> None:
    served.program.send(query("example.org", 5))
    asked, address = served.dockers.udp.recvfrom(65535)
    served.until(forwarded=1)
    served.pass_time(PENDING_S - 1)
    assert served.ask("web", 6) == (6, WEB)
    assert served.counts().late == 0
    served.pass_time(1)
    served.until(forwarded=1, answered=1, late=1)
    served.dockers.udp.sendto(reply_to(asked), address)
    assert served.ask("web", 7) == (7, WEB), "the late answer is dropped"


def test_without_dockers_each_query_fails_at_once(served: Served) -> None:
    """Also of two at once, as the C library asks for both kinds of address."""
    served.dockers.udp.close()
    for number in (5, 6):
        served.program.send(query("example.org", number))
    assert sorted([served.heard(), served.heard()]) == [(5, "SERVFAIL"), (6, "SERVFAIL")]
    wait_until(lambda: served.counts().failed == 2, WAIT_S, "both are counted")
    assert served.counts().late == 0
    assert served.ask("web", 7) == (7, WEB)


def test_dockers_comes_back(served: Served) -> None:
    served.dockers.udp.close()
    assert served.ask("example.org") == (1, "SERVFAIL")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(served.dockers.at)
        again.settimeout(WAIT_S)
        served.dockers.udp = again
        served.pass_time(RENEW_S)
        served.program.send(query("example.org", 9))
        served.dockers.answer_one()
        assert served.heard() == (9, ELSEWHERE)


def test_without_its_namespace_each_query_fails_at_once(served: Served) -> None:
    served.inside.gone = True
    assert served.ask("example.org") == (1, "SERVFAIL")
    served.until(forwarded=1, failed=1)


def test_a_mistake_ends_no_thread(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.program.send(query("mistake"))
    assert served.ask("web", 7) == (7, WEB)
    assert "a mistake of ours" in caplog.text


def test_a_mistake_in_a_query_that_has_waited_ends_no_thread(
        served: Served, caplog: pytest.LogCaptureFixture) -> None:
    connection = served.inside.connected()
    connection.sendall(framed(*[query("web")] * BURST, query("mistake")))
    for _ in range(BURST):
        next_message(connection)
    for _ in range(3):
        served.go_round()
    assert caplog.text == "", "it waits"
    served.pass_time(RENEW_S)
    served.go_round()
    assert served.ask("web", 7) == (7, WEB)
    assert "a mistake of ours" in caplog.text


# ----------------------------------------------------------------- connections
def test_a_name_of_ours_by_a_connection(served: Served) -> None:
    connection = served.inside.connected()
    for number in (5, 6):
        connection.sendall(framed(query("web", number)))
        assert read(next_message(connection)) == (number, WEB)
    served.until(answered=2)


def test_several_queries_in_one_segment(served: Served) -> None:
    connection = served.inside.connected()
    connection.sendall(framed(*(query("web", each) for each in range(20))))
    assert [read(next_message(connection)) for _ in range(20)] == [
        (each, WEB) for each in range(20)]


def test_one_query_in_several_segments(served: Served) -> None:
    connection = served.inside.connected()
    for byte in framed(query("web", 5), query("example.org", 6)):
        connection.sendall(bytes((byte,)))
    assert read(next_message(connection)) == (5, WEB)
    assert next_message(served.dockers.accept()) == query("example.org", 6)


def test_the_end_of_one_query_comes_with_the_beginning_of_the_next(served: Served) -> None:
    connection = served.inside.connected()
    data = framed(query("web", 5), query("web", 6))
    cut = len(data) // 2
    connection.sendall(data[:cut + 3])
    assert read(next_message(connection)) == (5, WEB)
    connection.sendall(data[cut + 3:])
    assert read(next_message(connection)) == (6, WEB)


def test_ours_and_others_mixed_on_one_connection(served: Served) -> None:
    connection = served.inside.connected()
    connection.sendall(framed(query("a.example", 1), query("web", 2), query("b.example", 3),
                              query("web", 4)))
    upstream = served.dockers.accept()
    asked = [next_message(upstream), next_message(upstream)]
    assert asked == [query("a.example", 1), query("b.example", 3)], "unchanged"
    answers = framed(*map(reply_to, reversed(asked)))
    assert [read(next_message(connection)) for _ in range(2)] == [(2, WEB), (4, WEB)]
    upstream.sendall(answers[:-5])  # one and a half: ours must not come in between
    assert read(next_message(connection)) == (3, ELSEWHERE)
    connection.sendall(framed(query("web", 5)))
    assert read(next_message(connection)) == (5, WEB)
    upstream.sendall(answers[-5:])
    assert read(next_message(connection)) == (1, ELSEWHERE)
    served.until(answered=3, forwarded=1)


def test_several_answers_in_one_segment(served: Served) -> None:
    connection = served.inside.connected()
    asked = [query("a.example", 1), query("b.example", 2)]
    connection.sendall(framed(*asked))
    served.dockers.accept().sendall(framed(*map(reply_to, asked)))
    assert [read(next_message(connection)) for _ in asked] == [(1, ELSEWHERE), (2, ELSEWHERE)]


def test_a_large_answer(served: Served) -> None:
    connection = served.inside.connected()
    connection.sendall(framed(query("example.org", 1)))
    upstream = served.dockers.accept()
    large = next_message(upstream)[:12] + bytes(60_000)
    upstream.sendall(framed(large))
    assert next_message(connection) == large


def test_dockers_ends_the_connection(served: Served) -> None:
    connection = served.inside.connected()
    connection.sendall(framed(query("example.org", 1)))
    served.dockers.accept().close()
    assert is_closed(connection)
    wait_until(lambda: len(served.inside.left_open()) == 2, WAIT_S, "ours is closed, too")


def test_the_program_ends_the_connection(served: Served) -> None:
    connection = served.inside.connected()
    connection.sendall(framed(query("example.org", 1)))
    upstream = served.dockers.accept()
    next_message(upstream)
    connection.close()
    assert is_closed(upstream)


def test_both_end_at_once(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """The first end closes both sides, while the other one has been heard of, too."""
    connection = served.inside.connected()
    connection.sendall(framed(query("example.org", 1)))
    upstream = served.dockers.accept()
    next_message(upstream)
    with served.holding():
        connection.close()
        upstream.close()
    assert served.ask("web", 7) == (7, WEB)
    wait_until(lambda: len(served.inside.left_open()) == 3, WAIT_S, "the connections are closed")
    assert caplog.text == ""


def test_a_sandbox_goes_with_its_queries_unread(served: Served,
                                                caplog: pytest.LogCaptureFixture) -> None:
    other = add(served, OTHER_KEY)
    with served.holding():
        served.server.remove(OTHER_KEY)
        other.program().send(query("web", 1))
        other.connected().sendall(framed(query("web", 2)))
    assert served.ask("web", 7) == (7, WEB)
    wait_until(lambda: not other.left_open(), WAIT_S, "all of its sockets are closed")
    assert caplog.text == ""


def test_dockers_takes_no_connection(served: Served) -> None:
    served.inside.gone = True
    connection = served.inside.connected()
    connection.sendall(framed(query("web", 1), query("example.org", 2), query("web", 3)))
    assert read(next_message(connection)) == (1, WEB)
    assert is_closed(connection)
    served.until(answered=1, failed=1)


def test_too_many_connections_are_refused(served: Served) -> None:
    taken = [served.inside.connected() for _ in range(STREAMS_MAX)]
    for each in taken:
        each.sendall(framed(query("web", 1)))
        assert read(next_message(each)) == (1, WEB)
    assert is_closed(served.inside.connected())
    served.until(answered=STREAMS_MAX, refused=1)
    taken[0].close()

    def is_taken() -> bool:
        """Whether there is room again."""
        with socket.create_connection(served.inside.tcp.getsockname(), WAIT_S) as one:
            try:
                one.sendall(framed(query("web", 2)))
                return one.recv(1) != b""
            except ConnectionError:
                return False

    wait_until(is_taken, WAIT_S, "another one is taken")


def test_a_mistake_ends_no_connection_but_its_own(served: Served) -> None:
    connection = served.inside.connected()
    connection.sendall(framed(query("mistake", 1)))
    other = served.inside.connected()
    other.sendall(framed(query("web", 2)))
    assert read(next_message(other)) == (2, WEB)


# ------------------------------------------------------------------- sandboxes
def test_each_sandbox_asks_for_itself(served: Served) -> None:
    other = add(served, OTHER_KEY)
    asker = other.program()
    asker.send(query("web", 3))
    assert read(asker.recv(65535)) == (3, WEB)
    assert served.ask("web", 4) == (4, WEB)
    assert [key for key, _ in served.names.asked] == [OTHER_KEY, KEY]


def test_removed(served: Served) -> None:
    other = add(served, OTHER_KEY)
    asker, connection = other.program(), other.connected()
    connection.sendall(framed(query("example.org", 1)))
    upstream = served.dockers.accept()
    next_message(upstream)
    asker.send(query("example.org", 2))
    served.dockers.udp.recvfrom(65535)
    assert len(other.left_open()) == 4
    served.server.remove(OTHER_KEY)
    wait_until(lambda: not other.left_open(), WAIT_S, "all of its sockets are closed")
    assert is_closed(connection)
    assert is_closed(upstream)
    served.server.remove(OTHER_KEY)
    assert served.ask("web", 4) == (4, WEB)


def test_added_again_with_other_sockets(served: Served) -> None:
    first, second = add(served, OTHER_KEY), add(served, OTHER_KEY)
    asker = second.program()
    asker.send(query("web", 3))
    assert read(asker.recv(65535)) == (3, WEB)
    assert first.left_open() == []


def test_as_many_files_are_open_as_before() -> None:
    with Scene() as scene:
        before = len(os.listdir("/proc/self/fd"))
        renewed: list[bool] = []
        server = NameServer(Names().resolve, renewed.append)
        sandboxes = [scene.sandbox() for _ in range(3)]
        for number, each in enumerate(sandboxes):
            server.add(str(number), each)
        server.start()
        with sandboxes[0].connected() as connection:
            connection.sendall(framed(query("web", 1)))
            assert read(next_message(connection)) == (1, WEB)
            server.stop()
        assert [each.left_open() for each in sandboxes] == [[], [], []]
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_server_that_was_never_started_closes_what_it_was_given() -> None:
    with Scene() as scene:
        server = NameServer(Names().resolve, lambda _serving: None)
        sandbox = scene.sandbox()
        server.add(KEY, sandbox)
        server.stop()
        assert sandbox.left_open() == []


# ------------------------------------------------------------ signs of its life
def test_the_end_is_said(served: Served) -> None:
    wait_until(lambda: served.renewed, WAIT_S, "it serves")
    served.server.stop()
    assert served.renewed[-1] is False
    assert set(served.renewed[:-1]) == {True}


def test_it_says_again_and_again_that_it_lives(served: Served) -> None:
    for count in range(1, 4):
        served.pass_time(RENEW_S)
        assert len(served.renewed) > count


def test_a_map_that_cannot_be_written_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_serving: bool) -> None:
        raise OSError("no such map")

    with Scene() as scene:
        server = NameServer(Names().resolve, refuse)
        sandbox = scene.sandbox()
        server.add(KEY, sandbox)
        server.start()
        program = sandbox.program()
        program.send(query("web", 3))
        assert read(program.recv(65535)) == (3, WEB)
        server.stop()
    assert "no such map" in caplog.text
