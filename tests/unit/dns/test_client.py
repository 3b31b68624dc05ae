"""Tests one sandbox's share of the thread and its limits: by turns, and without a thread."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest

from driver.dns.client import (
    AGAIN_S,
    BATCH,
    PENDING_MAX,
    PENDING_S,
    QUERY_MAX,
)
from driver.dns.messages import HEADER_BYTES
from driver.dns.share import SHARE
from driver.dns.streams import IDLE_S, READ_MAX
from tests.support.run.wait import wait_until
from tests.unit.dns.turns import MANY_TURNS, Turns, answers
from tests.unit.dns.world import (
    BURST,
    COST_S,
    ELSEWHERE,
    WAIT_S,
    WEB,
    Dockers,
    Sandbox,
    framed,
    is_closed,
    next_message,
    query,
    read,
)

RATE = SHARE / COST_S  # queries a second


def flood(program: socket.socket, count: int) -> None:
    for number in range(count):
        program.send(query("web", number))


def test_a_sandbox_that_floods_does_not_keep_anothers_query_waiting(turns: Turns) -> None:
    (_, loud), (_, quiet) = turns.client(), turns.client()
    flooding, asking = loud.program(), quiet.program()
    flood(flooding, BATCH + 10)
    asking.send(query("web", 5))
    turns.go_round()
    assert answers(asking) == 1
    assert answers(flooding) == BATCH
    turns.go_round()
    assert answers(flooding) == 10


def test_a_sandbox_that_floods_for_long_has_to_wait(turns: Turns) -> None:
    (_, loud), (_, quiet) = turns.client(), turns.client()
    flooding, asking = loud.program(), quiet.program()
    had = sent = 0
    while had < BURST:
        flood(flooding, BATCH)
        sent += BATCH
        turns.go_round()
        had += (now := answers(flooding))
        assert now, "the time for a pause has come too early"
    assert had == BURST
    flood(flooding, BATCH)
    sent += BATCH
    turns.settle()
    assert answers(flooding) == 0, "its queries wait in the socket"
    asking.send(query("web", 5))
    turns.go_round()
    assert answers(asking) == 1
    turns.tick(5 / RATE)
    turns.settle()
    assert answers(flooding) == 5
    turns.tick(60)
    turns.settle()
    assert answers(flooding) == sent - BURST - 5
    assert turns.counts.answered == sent + 1


def test_a_pause_ends_with_the_sandbox(turns: Turns) -> None:
    client, sandbox = turns.client()
    program = sandbox.program()
    for _ in range(0, BURST + BATCH, BATCH):
        flood(program, BATCH)
        turns.settle()
    client.close()
    turns.clients.remove(client)
    assert turns.watched == {}
    assert sandbox.left_open() == []


def test_queries_without_an_answer_are_limited(turns: Turns) -> None:
    turns.names.cost_s = 0.0
    _, sandbox = turns.client()
    program, dockers = sandbox.program(), turns.dockers.udp
    numbers = iter(range(PENDING_MAX + 10))
    carried = []
    for number in numbers:
        program.send(query("example.org", number))
        turns.settle()
        carried.append(dockers.recvfrom(65535))
    assert (turns.counts.forwarded, turns.counts.late) == (PENDING_MAX + 10, 10)
    for (asked, address), wanted in ((carried[9], []), (carried[10], [10]), (carried[-1], [521])):
        dockers.sendto(asked, address)  # as an answer, it will do
        turns.settle()
        program.setblocking(False)
        for number in wanted:
            assert read(program.recv(65535))[0] == number
        assert answers(program) == 0
    turns.tick(PENDING_S)
    assert turns.counts.late == PENDING_MAX + 10 - 2


@pytest.mark.parametrize(("length", "carried"), [
    (0, 0), (HEADER_BYTES - 1, 0), (HEADER_BYTES, 1), (QUERY_MAX, 1), (QUERY_MAX + 1, 0),
    (60_000, 0)])
def test_what_is_no_query_is_not_carried_on(turns: Turns, length: int, carried: int) -> None:
    _client, sandbox = turns.client()
    program = sandbox.program()
    program.send(bytes(length))
    program.send(query("web"))
    turns.settle()
    assert read(program.recv(65535)) == (1, WEB), "what comes after it is answered"
    assert (turns.counts.forwarded, turns.counts.refused) == (carried, 1 - carried)


def test_each_query_ends_in_its_own_time(turns: Turns) -> None:
    _, sandbox = turns.client()
    program = sandbox.program()
    for number in range(3):
        program.send(query("example.org", number))
        turns.settle()
        turns.tick(1)
    turns.tick(PENDING_S - 3)
    assert turns.counts.late == 1
    turns.tick(1)
    assert turns.counts.late == 2
    turns.tick(1)
    assert turns.counts.late == 3
    turns.tick(1)
    assert turns.counts.late == 3


def connected(turns: Turns, sandbox: Sandbox) -> socket.socket:
    made = sandbox.connected()
    turns.settle()
    return made


def ask(turns: Turns, connection: socket.socket) -> None:
    connection.sendall(framed(query("web", 1)))
    turns.settle()
    assert read(next_message(connection)) == (1, WEB)


def test_all_sandboxes_together_have_so_many_connections(turns: Turns) -> None:
    """Each has two descriptors, and the driver needs some for its other work."""
    (_, one), (_, other) = turns.client(), turns.client()
    turns.places.left = 1
    first = one.connected()
    turns.settle()
    refused = other.connected()
    turns.settle()
    assert is_closed(refused)
    assert turns.counts.refused == 1
    first.close()
    turns.settle()
    assert turns.places.left == 1
    ask(turns, connected(turns, other))


def test_a_connection_that_nobody_uses_is_closed(turns: Turns) -> None:
    _, sandbox = turns.client()
    connection = connected(turns, sandbox)
    turns.tick(1)
    turns.tick(IDLE_S - 1)
    ask(turns, connection)
    turns.tick(1)
    turns.tick(IDLE_S - 1)
    ask(turns, connection)
    turns.tick(1)
    turns.tick(IDLE_S)
    assert is_closed(connection)


def test_a_connection_that_dockers_uses_stays(turns: Turns) -> None:
    _, sandbox = turns.client()
    connection = connected(turns, sandbox)
    connection.sendall(framed(query("example.org", 1)))
    turns.settle()
    upstream = turns.dockers.accept()
    next_message(upstream)
    for _ in range(5):  # a transfer of a zone, say
        turns.tick(1)
        turns.tick(IDLE_S - 2)
        upstream.sendall(framed(bytes(20)))
        turns.settle()
        assert next_message(connection) == bytes(20)
    turns.tick(1)
    turns.tick(IDLE_S)
    assert is_closed(connection)
    assert is_closed(upstream)


def push_until_closed(turns: Turns, sandbox: Sandbox, message: bytes) -> None:
    """Send a message again and again, and read nothing, until the connection is closed.

    The clock stands still: it is not closed because nobody uses it.
    """
    connection = sandbox.connected(receive_buffer=4096)
    connection.setblocking(False)
    unsent = b""

    def is_closed_now() -> bool:
        nonlocal unsent
        for _ in range(50):  # then the kernel's own timers may have to do something
            unsent = unsent or message
            try:
                unsent = unsent[connection.send(unsent):]
            except BlockingIOError:
                pass
            except ConnectionError:
                return True
            turns.go_round()
        return False

    wait_until(is_closed_now, WAIT_S, "it is closed")


def test_a_program_that_reads_no_answers_is_cut_off(turns: Turns) -> None:
    turns.names.cost_s = 0.0
    _, sandbox = turns.client()
    sandbox.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of its connections, too
    push_until_closed(turns, sandbox, framed(*(query("web", 1) for _ in range(500))))
    ask(turns, connected(turns, sandbox))


def test_dockers_that_reads_no_queries_is_cut_off(turns: Turns) -> None:
    """What a program sends meanwhile must not fill our memory."""
    turns.dockers.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    _, sandbox = turns.client()
    sandbox.send_buffer = 4096
    push_until_closed(turns, sandbox, framed(bytes(60_000)))
    assert len(sandbox.left_open()) == 2


def test_a_connection_that_floods_does_not_keep_anothers_query_waiting(turns: Turns) -> None:
    (_, loud), (_, quiet) = turns.client(), turns.client()
    flooding, asking = connected(turns, loud), quiet.program()
    asked = framed(*(query("web", 1) for _ in range(2 * BURST)))
    flooding.setblocking(False)
    unsent = asked[flooding.send(asked):]
    asking.send(query("web", 5))
    turns.go_round()
    assert answers(asking) == 1
    assert turns.counts.answered <= 1 + READ_MAX // len(framed(query("web", 1)))
    turns.settle()
    assert turns.counts.answered == 1 + BURST, "the rest waits"
    asking.send(query("web", 5))
    turns.go_round()
    assert answers(asking) == 1
    had = b""
    for _ in range(MANY_TURNS):
        try:
            unsent = unsent[flooding.send(unsent):]
            had += flooding.recv(1 << 20)
        except BlockingIOError:
            pass
        turns.tick(0.25)
        turns.settle()
        if turns.counts.answered == 2 + 2 * BURST:
            break
    else:
        raise AssertionError("not all are answered")


def test_a_connection_that_ends_while_it_waits(turns: Turns) -> None:
    client, sandbox = turns.client()
    flooding = connected(turns, sandbox)
    flooding.sendall(framed(*(query("web", 1) for _ in range(BURST + 10))))
    turns.settle()
    assert turns.counts.answered == BURST
    flooding.close()
    turns.tick(0.25)
    turns.settle()
    assert len(sandbox.left_open()) == 2
    flooding = connected(turns, sandbox)
    flooding.sendall(framed(*(query("web", 1) for _ in range(2 * BURST))))
    turns.settle()
    client.close()
    turns.clients.remove(client)
    assert turns.watched == {}
    with suppress(ConnectionError):
        while flooding.recv(1 << 20):
            """Read until the end."""


def test_what_dockers_does_not_take_at_once_is_sent_later(turns: Turns) -> None:
    turns.dockers.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    _, sandbox = turns.client()
    sandbox.send_buffer = 4096
    connection = connected(turns, sandbox)
    asked = [bytes((number,)) * 30_000 for number in range(4)]
    connection.sendall(framed(*asked))
    turns.settle()
    upstream = turns.dockers.accept()
    upstream.setblocking(False)
    data, ticks = b"", 0

    def is_there() -> bool:
        nonlocal data, ticks
        with suppress(BlockingIOError):
            while True:
                data += upstream.recv(1 << 20)
        turns.tick(0)
        ticks += 1
        return len(data) >= len(framed(*asked))

    wait_until(is_there, WAIT_S, "all has come", every_s=0.001)
    assert data == framed(*asked)
    assert ticks > 1, "it took all at once"


def test_dockers_that_refuses_is_not_asked_by_a_new_socket_for_each_query(turns: Turns) -> None:
    _, sandbox = turns.client()
    program = sandbox.program()
    turns.dockers.udp.close()

    def refused() -> int:
        """Ask several times; return how many sockets were opened for that."""
        before = len(sandbox.opened)
        for number in range(5):
            program.send(query("example.org", number))
            turns.settle()
            assert read(program.recv(65535)) == (number, "SERVFAIL")
        return len(sandbox.opened) - before

    assert refused() == 1
    turns.tick(AGAIN_S / 2)
    assert refused() == 0
    turns.tick(AGAIN_S)
    assert refused() == 1
    assert turns.counts.failed == 15
    assert len(sandbox.left_open()) == 2


@pytest.mark.parametrize("waiting", [0, 1, 3])
def test_after_a_restart_of_dockerd_no_query_fails(turns: Turns, waiting: int) -> None:
    """Its name server has another port then; NAT turns the first datagram of a socket only."""
    _, sandbox = turns.client()
    program = sandbox.program()
    program.send(query("example.org", 1))
    turns.settle()
    turns.dockers.answer_one()
    turns.settle()
    assert read(program.recv(65535)) == (1, ELSEWHERE)
    for number in range(waiting):  # it has them, and ends
        program.send(query("example.org", 10 + number))
    turns.settle()
    turns.dockers.udp.close()
    sandbox.dockers = Dockers(turns.stack)
    turns.tick(AGAIN_S)
    program.send(query("example.org", 2))
    turns.settle()
    answered = []
    for _ in range(waiting + 1):
        sandbox.dockers.answer_one()
        turns.settle()
        answered.append(read(program.recv(65535)))
    assert answered == [(number, ELSEWHERE) for number in (*range(10, 10 + waiting), 2)]
    assert turns.counts.failed == 0
    assert len(sandbox.left_open()) == 3


def test_an_answer_for_a_program_that_has_gone(turns: Turns) -> None:
    _, sandbox = turns.client()
    gone, program = sandbox.program(), sandbox.program()
    gone.send(query("example.org", 1))
    turns.settle()
    gone.close()
    turns.dockers.answer_one()
    turns.settle()
    program.send(query("example.org", 2))
    turns.settle()
    turns.dockers.answer_one()
    turns.settle()
    assert read(program.recv(65535)) == (2, ELSEWHERE)
