"""Goes round as the server's thread does, but when a test tells it to: a share.Loop."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from driver.dns.client import ALL_STREAMS_MAX, Client, Counts, Places
from driver.dns.share import Share
from driver.services.ports import NameReply, Question
from tests.unit.dns.world import Names, Sandbox, Scene

MANY_TURNS = 5000


class Turns(Scene):
    """A share.Loop that goes round when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0
        self.now_s = 1000.0
        self.counts = Counts()
        self.names = Names()
        self.places = Places(ALL_STREAMS_MAX)
        self.watched: dict[socket.socket, Callable[[], object]] = {}
        self.acts: list[Callable[[], object]] = []
        self.paused: list[Share] = []
        self.clients: list[Client] = []

    # -------------------------------------------------------------- share.Loop
    def watch(self, watched: socket.socket, act: Callable[[], object]) -> None:
        assert watched not in self.watched
        self.watched[watched] = act

    def unwatch(self, watched: socket.socket) -> None:
        del self.watched[watched]

    def soon(self, act: Callable[[], object]) -> None:
        self.acts.append(act)

    def pause(self, share: Share) -> None:
        self.paused.append(share)

    def clock(self) -> float:
        return self.now_s

    def spent(self) -> float:
        return self.names.spent_s()

    # --------------------------------------------------------------------------
    def client(self) -> tuple[Client, Sandbox]:
        def resolve(question: Question) -> NameReply | None:
            return self.names.resolve("", question)

        sandbox = self.sandbox()
        made = Client(sandbox, resolve, self.counts, self, self.places)
        self.clients.append(made)
        return made, sandbox

    def go_round(self) -> int:
        """Return how much there was to do."""
        self.turn += 1
        acts, self.acts = self.acts, []
        for act in acts:
            act()
        ready = select.select(list(self.watched), [], [], 0)[0]
        for each in ready:
            if each in self.watched:
                self.watched[each]()
        return len(acts) + len(ready)

    def settle(self) -> None:
        """Go on until there is nothing to do."""
        for _ in range(MANY_TURNS):
            if not self.go_round():
                return
        raise AssertionError("it never comes to rest")

    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        self.paused = [each for each in self.paused if not each.go_on()]
        for each in self.clients:
            each.tick()


def answers(program: socket.socket) -> int:
    """Count the answers that have come."""
    program.setblocking(False)
    count = 0
    while True:
        try:
            program.recv(65535)
        except BlockingIOError:
            return count
        count += 1
