"""Tests that whatever a container sends to the name server is at most its own loss.

Another container's queries are all answered meanwhile, and rightly; the server's thread lives, its
memory and its open files are bounded; and the hostile container's own ordinary query is answered
afterwards.
"""

from __future__ import annotations

import random
import secrets
import socket
import struct
from contextlib import ExitStack, suppress

import pytest

from driver.dns.client import PENDING_MAX
from driver.link.netlink.names import NAME_SERVER, NAMES_PORT
from tests.netns.names.neighbours import (
    OWN,
    SILENT,
    WAIT_S,
    Neighbours,
)
from tests.support.faults.dns_messages import (
    HEADER,
    LARGEST,
    at_random,
    costly,
    query,
    question,
    unusual,
)
from tests.support.run.wait import wait_until

AT_A_TIME = 40  # datagrams that a socket's buffer holds, however small they are
IN_RANDOM = 1500  # messages
OFTEN = 3  # a costly message


def send_all(neighbours: Neighbours, messages: list[bytes]) -> None:
    """Send them as datagrams, as fast as they are read: none is lost."""
    with neighbours.datagrams(neighbours.hostile) as sending:
        for number, message in enumerate(messages, 1):
            sending.send(message)
            if not number % AT_A_TIME:
                neighbours.hostile_is_answered()


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def send_framed(neighbours: Neighbours, messages: list[bytes]) -> None:
    """Send each by a connection of its own, and read what comes."""
    for message in messages:
        with neighbours.connection() as connection, suppress(ConnectionError):
            connection.settimeout(WAIT_S)
            connection.sendall(framed(message))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                """It is closed in the end."""


def test_messages_that_no_program_sends(neighbours: Neighbours) -> None:
    messages = [message for _, message in unusual()]
    send_all(neighbours, messages)
    send_framed(neighbours, messages)
    neighbours.is_well()


def test_messages_by_chance(neighbours: Neighbours) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    messages = list(at_random(random.Random(seed), IN_RANDOM))
    send_all(neighbours, messages)
    send_framed(neighbours, messages[:IN_RANDOM // 10])
    neighbours.is_well()


@pytest.mark.parametrize("kind", costly(512))
def test_messages_that_are_slow_to_read(neighbours: Neighbours, kind: str) -> None:
    """The one thread must not be held by any of them: nobody else would have names meanwhile."""
    send_all(neighbours, [costly(512)[kind]] * AT_A_TIME)
    send_all(neighbours, [costly(LARGEST)[kind]] * OFTEN)
    send_framed(neighbours, [costly(65535)[kind]])
    neighbours.is_well()


def test_large_queries_that_dockers_does_not_answer(neighbours: Neighbours) -> None:
    """Each waits for an answer, and must not be kept whole so long."""
    asked = query(question(SILENT + b"\0")) + bytes(60_000)
    with neighbours.datagrams(neighbours.hostile) as sending:
        for _ in range(PENDING_MAX):
            sending.send(asked)
            neighbours.hostile_is_answered()
    neighbours.is_well(growth_max=8 << 20)


def test_connections_that_lie_about_lengths(neighbours: Neighbours) -> None:
    with ExitStack() as stack:
        for data in (b"\0\0", b"\0", b"\0\0" * 3000, b"\xff\xff\0", b"\xff\xff" + bytes(60_000),
                     framed(query())[:-1], b"\0\1" + query(), b"\0\x0b" + bytes(11)):
            stack.enter_context(neighbours.connection()).sendall(data)
        neighbours.more_is_asked()
    neighbours.is_well()


def test_connections_that_end_in_the_middle(neighbours: Neighbours) -> None:
    for connection in [*neighbours.begun(90), *(neighbours.connection() for _ in range(10))]:
        with suppress(OSError):  # some are more than its share
            connection.sendall(framed(query())[:random.choice((0, 1, 2, 9))])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    neighbours.is_well()


def test_a_hundred_connections_that_read_no_answer(neighbours: Neighbours) -> None:
    with ExitStack() as stack:
        for connection in neighbours.begun(100):
            stack.enter_context(connection)
            with suppress(OSError):
                for _ in range(100):
                    connection.send(framed(query()) * 500)
        neighbours.more_is_asked()
    neighbours.is_well()


def test_answers_that_dockers_did_not_give(neighbours: Neighbours) -> None:
    """A forged one may reach who asks in the same container, and nobody else."""
    forged = query(question(b"\x09elsewhere\x07example\0") + b"\xc0\x0c" + struct.pack(
        ">HHIH4s", 1, 1, 60, 4, bytes(4)), flags=0x8180, counts=(1, 1, 0, 0))
    with neighbours.datagrams(neighbours.hostile) as asking:
        asking.send(query(question(SILENT + b"\0")))
        neighbours.hostile_is_answered()
        with neighbours.hostile.netns.call(lambda: socket.socket(
                socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)) as raw:
            raw.bind((NAME_SERVER, 0))
            for port in udp_ports(neighbours):
                for number in range(0, 65536, 16):
                    data = number.to_bytes(2, "big") + forged[2:]
                    raw.sendto(struct.pack(">HHHH", 53, port, 8 + len(data), 0) + data,
                               ("127.0.0.1", 0))
    neighbours.is_well()


def udp_ports(neighbours: Neighbours) -> set[int]:
    """Return the ports of slim's sockets towards Docker's name server in the hostile container."""
    lines = neighbours.hostile.netns.run("cat", "/proc/net/udp").stdout.splitlines()[1:]
    rows = [line.split() for line in lines]
    server = f"{struct.unpack('=I', socket.inet_aton(NAME_SERVER))[0]:08X}:0035"
    return {int(row[1].partition(":")[2], 16) for row in rows if row[2] == server}


def test_a_chain_of_silent_queries_leaves_the_others_a_way(neighbours: Neighbours) -> None:
    """Those that wait for Docker's are limited; the oldest are given up."""
    with neighbours.datagrams(neighbours.hostile) as asking:
        for number in range(1000):
            asking.send(query(question(SILENT + b"\0"), number=number))
            if not number % AT_A_TIME:
                neighbours.hostile_is_answered()
        assert neighbours.ask(neighbours.hostile, "elsewhere.example") == []
        wait_until(lambda: neighbours.server.counts().late >= 400, WAIT_S, "some are given up")
    neighbours.is_well()


def test_short_datagrams_are_read_and_dropped(neighbours: Neighbours) -> None:
    send_all(neighbours, [bytes(length) for length in range(HEADER.size)] * 20)
    assert neighbours.ask(neighbours.hostile) == [OWN]
    neighbours.is_well()


def test_connections_that_are_half_open(neighbours: Neighbours) -> None:
    """The server's port is 53 in all that it answers: a connection to 54 is never complete."""
    with ExitStack() as stack:
        for half in neighbours.begun(100, NAMES_PORT):
            stack.enter_context(half)
        with neighbours.datagrams(neighbours.hostile) as asking:
            asking.connect((NAME_SERVER, NAMES_PORT))
            asking.send(query())
            neighbours.more_is_asked()
    neighbours.is_well()
