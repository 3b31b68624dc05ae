"""A sandbox's sockets on 127.0.0.1, and what stands for Docker's name server there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address
from types import TracebackType
from typing import Self

import dns.message
import dns.rdatatype
import dns.rrset

from driver.dns.share import BURST_S
from driver.errors import LinkError
from driver.services.ports import NameReply, Question

WAIT_S = 20.0
HOST = "127.0.0.1"
COST_S = 2.0 ** -15  # CPU that a query is said to take
BURST = round(BURST_S / COST_S)  # queries that are a sandbox's share at once
WEB, ELSEWHERE = "10.32.0.2", "192.0.2.7"  # what our names and what Docker's lead to


def query(name: str, number: int = 1, kind: str = "A") -> bytes:
    """Return a query."""
    return bytes(dns.message.make_query(name, kind, id=number).to_wire())


def reply_to(asked: bytes, address: str = ELSEWHERE) -> bytes:
    """Return what Docker's name server answers."""
    message = dns.message.from_wire(asked)
    answer = dns.message.make_response(message)
    answer.answer.append(dns.rrset.from_text(
        message.question[0].name, 5, "IN", message.question[0].rdtype, address))
    return bytes(answer.to_wire())


def read(answer: bytes) -> tuple[int, str]:
    """Return an answer's number, and its address or else its return code."""
    message = dns.message.from_wire(answer)
    found = [each.to_text() for rrset in message.answer for each in rrset]
    return message.id, found[0] if found else message.rcode().name


def framed(*messages: bytes) -> bytes:
    """Return messages as a connection carries them."""
    return b"".join(len(each).to_bytes(2, "big") + each for each in messages)


def next_message(connection: socket.socket) -> bytes:
    """Return the next message of a connection."""
    return _exactly(connection, int.from_bytes(_exactly(connection, 2), "big"))


def is_closed(connection: socket.socket) -> bool:
    """Wait until the other side closes the connection, and return whether it says nothing."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        assert part, f"closed after {data!r}"
        data += part
    return data


class Dockers:
    """Docker's name server: it answers what and when the test says."""

    def __init__(self, stack: ExitStack) -> None:
        self.udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.tcp = stack.enter_context(socket.socket())
        for each in (self.udp, self.tcp):
            each.bind((HOST, 0))
            each.settimeout(WAIT_S)
        self.tcp.listen()
        self.at: tuple[str, int] = self.udp.getsockname()  # stays known when it is closed
        self._stack = stack

    def accept(self) -> socket.socket:
        """Return the next connection of slim's."""
        connection, _ = self.tcp.accept()
        connection.settimeout(WAIT_S)
        return self._stack.enter_context(connection)

    def answer_one(self) -> bytes:
        """Answer the next datagram; return it."""
        asked, address = self.udp.recvfrom(65535)
        self.udp.sendto(reply_to(asked), address)
        return asked


class Sandbox:
    """dns.server.Sockets, and the programs that ask there."""

    def __init__(self, dockers: Dockers, stack: ExitStack) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.tcp = socket.socket()
        for each in (self.udp, self.tcp):
            each.bind((HOST, 0))
            each.setblocking(False)
        self.tcp.listen(64)
        self.dockers = dockers
        self.gone = False  # its namespace
        self.send_buffer = 0  # bytes, of connections to Docker's; 0: as usual
        self.opened: list[socket.socket] = [self.udp, self.tcp]  # that slim has to close
        self._stack = stack

    @property
    def ask(self) -> Callable[[], socket.socket]:
        return lambda: self._towards(socket.SOCK_DGRAM, self.dockers.at)

    @property
    def connect(self) -> Callable[[], socket.socket]:
        return lambda: self._towards(socket.SOCK_STREAM, self.dockers.tcp.getsockname())

    def _towards(self, kind: int, address: tuple[str, int]) -> socket.socket:
        if self.gone:
            raise LinkError("there is no such namespace")
        made = socket.socket(socket.AF_INET, kind)
        made.setblocking(False)
        if self.send_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
        made.connect_ex(address)
        self.opened.append(made)
        return made

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()

    def left_open(self) -> list[socket.socket]:
        """Return slim's sockets that are still open."""
        return [each for each in self.opened if each.fileno() >= 0]

    def program(self) -> socket.socket:
        """Return a program's socket for datagrams."""
        made = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.settimeout(WAIT_S)
        made.connect(self.udp.getsockname())
        return made

    def connected(self, receive_buffer: int = 0) -> socket.socket:
        """Return a program's connection.  receive_buffer: bytes; 0: as usual."""
        made = self._stack.enter_context(socket.socket())
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(WAIT_S)
        made.connect(self.tcp.getsockname())
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


class Names:
    """What a sandbox's programs may ask for: "web", in each sandbox.

    "mistake" is one of ours; "hold" holds the thread until `go_on`.
    """

    def __init__(self) -> None:
        self.held, self.go_on = threading.Event(), threading.Event()
        self.asked: list[tuple[str, Question]] = []
        self.cost_s = COST_S

    def spent_s(self) -> float:
        """Return the CPU that the queries have taken."""
        return len(self.asked) * self.cost_s

    def resolve(self, sandbox_key: str, question: Question) -> NameReply | None:
        self.asked.append((sandbox_key, question))
        if question.name == "mistake":
            raise RuntimeError("a mistake of ours")
        if question.name == "hold":
            self.held.set()
            assert self.go_on.wait(WAIT_S)
        return NameReply((ip_address(WEB),)) if question.name == "web" else None


class Scene:
    """Sockets that end with the test."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.dockers = Dockers(self.stack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stack.close()

    def sandbox(self) -> Sandbox:
        return Sandbox(self.dockers, self.stack)
