"""A hostile container and another one in the same network, whose program asks all the time.

One name server serves both, and each has what stands for Docker's.  The name "web" is another
address in each sandbox, so that no answer meant for one is taken for the other's.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import dns.message
import pytest

from driver.datapath.tables.names_map import NamesMap
from driver.dns.server import NameServer
from driver.link.netlink.names import NAME_SERVER
from driver.link.sandbox.resolving import Resolving
from driver.services.ports import NameReply, Question
from tests.conftest import FAILED
from tests.netns.names.programs import ASK, STAND_IN
from tests.netns.talk import started
from tests.support.run.wait import wait_until
from tests.support.world.machines import Cluster, Container, Machine, lent

Resolve = Callable[[str, Question], NameReply | None]
WAIT_S = 60.0
RESOLVER_S = 5.0  # how long the C library waits for an answer; then a program has none
OWN, OTHERS = "10.32.0.77", "10.32.0.78"  # what "web" is to the hostile container, and the other
ASKED = 60  # queries of the other's that must be answered before a test ends
GROWTH_MAX = 32 << 20  # bytes of memory, of all that a hostile container may cause
SILENT = b"\x06silent"  # a name to which Docker's name server never answers

@dataclass
class Heard:
    """What the asking program has heard since an attack began."""

    wrong: list[str] = field(default_factory=list)  # wrong answers, or none
    took_ms: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        ordered = sorted(self.took_ms)
        return (f"{len(ordered)} answers: median {ordered[len(ordered) // 2]:.1f} ms, 99 % within "
                f"{ordered[len(ordered) * 99 // 100]:.1f}, the last one {ordered[-1]:.1f}")


class Neighbours:
    """See the module."""

    def __init__(self, stack: ExitStack, machine: Machine,
                 resolve: Resolve | None = None) -> None:
        """resolve: by sandbox key, what else there is than "web"."""
        self.machine = machine
        self.hostile, self.other = (machine.container(f"10.32.0.{last}/16") for last in (2, 3))
        self._resolve = resolve or (lambda _key, _question: None)
        self._names = NamesMap(machine.loaded)
        self._asked: set[tuple[str, str]] = set()  # sandbox key, name
        self._said_s = time.monotonic()
        self._silence_s = 0.0
        self.resolving = Resolving(machine.loaded.programs["name_query"])
        self.server = NameServer(self._answer, self._renew)
        self.server.start()
        stack.callback(self.server.stop)
        for each in (self.hostile, self.other):
            started(each, STAND_IN)
            self.server.add(each.netns.path, self.resolving.open(each.netns.path))
        for each, address in ((self.hostile, OWN), (self.other, OTHERS)):
            wait_until(lambda each=each, address=address: (  # type: ignore[misc]
                self.ask(each) == [address]), WAIT_S, "names to be served")
            assert self.ask(each, "elsewhere.example") == []
        self.asker = started(self.other, ASK, OTHERS, RESOLVER_S)
        self.begin()

    def begin(self) -> None:
        """Take what there is now for what is well."""
        self._heard = Heard()
        self.more_is_asked()
        self._heard, self._silence_s = Heard(), 0.0
        self._files, self._memory = open_files(), memory()

    def ask(self, container: Container, name: str = "web", wait_s: float = 0.2) -> list[str]:
        """Ask as any program does; empty: there is no such name, or no answer."""
        with self.datagrams(container) as asking:
            asking.settimeout(wait_s)
            query = dns.message.make_query(name, "A")
            try:
                asking.send(query.to_wire())
                answer = dns.message.from_wire(asking.recv(4096))
            except OSError:
                return []
        assert answer.id == query.id
        return [str(each) for rrset in answer.answer for each in rrset]

    @staticmethod
    def datagrams(container: Container) -> socket.socket:
        """Open a socket of a container's that is connected to the name server."""
        made = container.netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.connect((NAME_SERVER, 53))
        return made

    def connection(self) -> socket.socket:
        """Open a connection of the hostile container's to the name server."""
        return self.hostile.netns.call(
            lambda: socket.create_connection((NAME_SERVER, 53), WAIT_S))

    def begun(self, count: int, port: int = 53) -> list[socket.socket]:
        """Begin so many connections of its; none blocks, and some are never complete."""
        def begin() -> list[socket.socket]:
            made = [socket.socket() for _ in range(count)]
            for each in made:
                each.setblocking(False)
                each.connect_ex((NAME_SERVER, port))
            return made

        return self.hostile.netns.call(begin)

    def more_is_asked(self, count: int = ASKED) -> None:
        """Wait until the other container has asked so much more."""
        wanted = len(self._heard.took_ms) + count

        def is_so() -> bool:
            self._hear()
            return len(self._heard.took_ms) >= wanted

        wait_until(is_so, WAIT_S, "it asks on")

    def hostile_is_answered(self) -> None:
        """Wait until its ordinary query is, which is read after all that it has sent before.

        The first ones may find no room where they would wait.
        """
        wait_until(lambda: self.ask(self.hostile) == [OWN], WAIT_S, "its own query is answered",
                   every_s=0.001)

    def is_well(self, growth_max: int = GROWTH_MAX) -> str:
        """Assert what must hold after any attack, once the hostile container has closed all.

        Return how the other container fared.
        """
        self.hostile_is_answered()
        self.more_is_asked()
        self._hear("all")
        silence_s = max(self._silence_s, time.monotonic() - self._said_s)
        grown = memory() - self._memory
        report = (f"{self._heard}; the server's thread was silent for {silence_s:.2f} s at most; "
                  f"{grown / 2**20:.1f} MiB more")
        assert not self._heard.wrong, f"{self._heard.wrong[:5]}; {report}"
        assert [each.name for each in threading.enumerate()].count("names") == 1
        wait_until(lambda: open_files() <= self._files, WAIT_S, "as few files are open as before")
        assert grown < growth_max, report
        assert self.asked_in(self.other) <= {"web", "elsewhere.example"}, "what it asks itself"
        return report

    def asked_in(self, container: Container) -> set[str]:
        """Return the names for which slim's server was asked in a container's sandbox."""
        return {name for key, name in set(self._asked) if key == container.netns.path}

    def _hear(self, what: str = "") -> None:
        """what: "all" has it wait first for the answers to all that it has asked."""
        said = json.loads(self.asker.ask(what))
        self._heard.wrong += said["wrong"]
        self._heard.took_ms += said["took_ms"]

    def _renew(self, serving: bool) -> None:
        self._names.renew(serving)
        now_s = time.monotonic()
        self._silence_s = max(self._silence_s, now_s - self._said_s)
        self._said_s = now_s

    def _answer(self, sandbox_key: str, question: Question) -> NameReply | None:
        self._asked.add((sandbox_key, question.name))
        if question.name == "web":
            own = OWN if sandbox_key == self.hostile.netns.path else OTHERS
            return NameReply((IPv4Address(own),))
        return self._resolve(sandbox_key, question)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory() -> int:
    """Return this process's memory, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Lent:
    """Neighbours for the tests of a file, made anew after one that has failed."""

    def __init__(self, machine: Machine, resolve: Resolve | None = None) -> None:
        self._machine = machine
        self._resolve = resolve
        self._stack = ExitStack()
        self._made: Neighbours | None = None

    def get(self) -> Neighbours:
        """Return them as they are at rest."""
        if self._made is None:
            self._made = Neighbours(self._stack, self._machine, self._resolve)
        self._made.begin()
        return self._made

    def drop(self) -> None:
        self._stack.close()
        self._made = None


@contextmanager
def lent_by(cluster: Cluster, resolve: Resolve | None = None) -> Iterator[Lent]:
    with lent(cluster) as machines:
        made = Lent(machines[0], resolve)
        try:
            yield made
        finally:
            made.drop()


@contextmanager
def for_one_test(lent_ones: Lent, request: pytest.FixtureRequest) -> Iterator[Neighbours]:
    yield lent_ones.get()
    if request.node.stash.get(FAILED, False):
        lent_ones.drop()
