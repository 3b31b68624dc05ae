"""Tests that no sandbox holds the thread for long: in queries between two turns, not in time.

test_client.py has the share of datagrams, and of one connection.
"""

from __future__ import annotations

import socket
import threading

from driver.dns.client import BATCH, STREAMS_MAX
from driver.dns.server import NameServer
from driver.services.ports import NameReply, Question
from tests.support.run.wait import wait_until
from tests.unit.dns.turns import Turns, answers
from tests.unit.dns.world import BURST, WAIT_S, Names, Scene, framed, query

AT_A_TURN = 4 * BATCH  # of one sandbox, however it asks
RENEWED_S = 0.9  # for so long names are served after a sign of the thread
SANDBOXES = 100
QUERY_S = 0.001  # what one is said to take


def flooded(turns: Turns) -> socket.socket:
    """Flood by all connections that a sandbox may have; return a program of another one's."""
    (_, loud), (_, quiet) = turns.client(), turns.client()
    connections = [loud.connected() for _ in range(STREAMS_MAX)]
    turns.settle()
    for connection in connections:
        connection.setblocking(False)
        connection.send(framed(*(query("web", 1) for _ in range(2 * BURST // STREAMS_MAX))))
    return quiet.program()


def test_connections_together_have_one_share_of_a_turn(turns: Turns) -> None:
    asking = flooded(turns)
    asking.send(query("web", 5))
    turns.go_round()
    assert answers(asking) == 1
    assert turns.counts.answered <= 1 + AT_A_TURN


def test_what_has_waited_has_one_share_of_a_turn(turns: Turns) -> None:
    flooded(turns)
    turns.settle()
    before = turns.counts.answered
    assert before == BURST, "the rest waits"
    turns.tick(0.25)
    assert turns.counts.answered - before <= AT_A_TURN


def test_many_sandboxes_do_not_keep_the_thread_from_saying_that_it_lives() -> None:
    """Else all sandboxes' queries would go to Docker's name server."""
    now_s, said_s, longest_s = 1000.0, 1000.0, 0.0
    names, guard = Names(), threading.Lock()

    def resolve(key: str, question: Question) -> NameReply | None:
        nonlocal now_s
        with guard:
            now_s += QUERY_S
        return names.resolve(key, question)

    def renew(_serving: bool) -> None:
        nonlocal said_s, longest_s
        with guard:
            longest_s = max(longest_s, now_s - said_s)
            said_s = now_s

    with Scene() as scene:
        server = NameServer(resolve, renew, clock=lambda: now_s)
        for number in range(SANDBOXES):
            sandbox = scene.sandbox()
            program = sandbox.program()
            for each in range(BATCH):
                program.send(query("web", each))
            server.add(f"sandbox {number}", sandbox)
        server.start()
        wait_until(lambda: server.counts().answered == SANDBOXES * BATCH, WAIT_S, "all is answered")
        server.stop()
    assert longest_s < RENEWED_S
