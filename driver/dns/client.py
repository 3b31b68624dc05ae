"""Answers the queries of one sandbox, and carries the others to Docker's name server and back.

Called by the server's thread only.  A sandbox has its share of that thread, however much it asks.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from driver.dns.messages import HEADER_BYTES, ID_BYTES, read_question, write_answer, write_failure
from driver.dns.share import Loop, Share
from driver.dns.streams import Stream
from driver.errors import LinkError
from driver.services.ports import NameReply, Question

if TYPE_CHECKING:
    from driver.dns.server import Sockets

log = logging.getLogger(__name__)

QUERY_MAX: Final = 4096  # bytes by UDP; Docker's name server itself reads 512
ANSWER_MAX: Final = 65535  # bytes
BATCH: Final = 16  # datagrams of one sandbox before others have their turn
PENDING_MAX: Final = 512  # forwarded queries without an answer
PENDING_S: Final = 15.0  # longer than any resolver waits
AGAIN_S: Final = 0.2  # between two attempts to reach Docker's name server
STREAMS_MAX: Final = 16  # TCP connections at a time
ALL_STREAMS_MAX: Final = 1024  # of all sandboxes; each has two descriptors


@dataclass
class Counts:
    """Queries since the start."""

    answered: int = 0  # by names of containers
    forwarded: int = 0  # to Docker's name server, or meant to be
    failed: int = 0  # of these: it could not be asked
    late: int = 0  # of these: it has not answered in time
    refused: int = 0  # no message, too long, or a connection beyond a sandbox's share


@dataclass
class Places:
    """So many are left."""

    left: int

    def take(self) -> bool:
        """Take one; False: none is left."""
        if self.left <= 0:
            return False
        self.left -= 1
        return True

    def give_back(self) -> None:
        """Undo `take`."""
        self.left += 1


@dataclass(frozen=True)
class _Pending:
    asker: Any  # its address
    query: bytes
    end_s: float
    again: bool = False  # Docker's name server has refused it once


class Client:
    """One sandbox's sockets and unanswered queries."""

    def __init__(self, sockets: Sockets, resolve: Callable[[Question], NameReply | None],
                 counts: Counts, loop: Loop, streams: Places) -> None:
        """streams: places for connections, of all sandboxes together."""
        self._sockets = sockets
        self._resolve = resolve
        self._counts = counts
        self._clock = loop.clock
        self._places = streams
        self._upstream: socket.socket | None = None
        self._asked_s = -1e9  # when it was opened
        self._pending: dict[bytes, _Pending] = {}  # by the number towards Docker's
        self._streams: set[Stream] = set()
        self._share = Share(loop)
        self._share.watch(sockets.udp, self._read)
        self._share.watch(sockets.tcp, self._accept)

    def close(self) -> None:
        """End all of it."""
        for stream in list(self._streams):
            stream.close()
        self._hang_up()
        self._share.unwatch(self._sockets.udp)
        self._share.unwatch(self._sockets.tcp)
        self._sockets.close()

    def tick(self) -> None:
        """Give up what Docker's name server has not answered, and idle connections."""
        now_s = self._clock()
        for number, pending in list(self._pending.items()):
            if pending.end_s > now_s:
                break  # they end in the order in which they came
            del self._pending[number]
            self._counts.late += 1
        for stream in list(self._streams):
            stream.tick(now_s)

    def answer(self, query: bytes, *, udp: bool) -> bytes | None:
        """Return the answer by a container's name; None: it is not ours to give."""
        question = read_question(query)
        reply = self._resolve(question) if question is not None else None
        answer = write_answer(query, reply, udp=udp) if reply is not None else None
        if answer is not None:
            self._counts.answered += 1
        return answer

    def _read(self) -> None:
        for _ in range(BATCH):
            try:
                query, asker = self._sockets.udp.recvfrom(QUERY_MAX + 1)
            except OSError:  # nothing is left; or an earlier answer was refused
                return
            if not HEADER_BYTES <= len(query) <= QUERY_MAX:
                self._counts.refused += 1
                continue
            answer = self.answer(query, udp=True)
            if answer is not None:
                self._send(answer, asker)
            else:
                self._forward(query, asker)
            if not self._share.lasts():
                return

    def _forward(self, query: bytes, asker: Any) -> None:
        """Carry a query on, or answer that this is impossible."""
        if len(self._pending) >= PENDING_MAX:
            self._pending.pop(next(iter(self._pending)))
            self._counts.late += 1
        number = secrets.token_bytes(ID_BYTES)
        while number in self._pending:
            number = secrets.token_bytes(ID_BYTES)
        self._counts.forwarded += 1
        self._pending[number] = _Pending(asker, query, self._clock() + PENDING_S)
        self._carry(number)

    def _carry(self, number: bytes) -> None:
        upstream = self._dockers()
        if upstream is None:
            self._fail(number)
            return
        try:
            upstream.send(number + self._pending[number].query[ID_BYTES:])
        except BlockingIOError:
            self._fail(number)
        except OSError:  # an earlier one was refused
            self._carry_again()

    def _carry_again(self) -> None:
        """Docker's name server has refused: carry what waits to the one that is there now, once.

        A dockerd that has started again has another one.  NAT would go on turning the old socket's
        datagrams to the old one: so the socket is replaced, at most once in AGAIN_S.
        """
        self._hang_up()
        for number, pending in list(self._pending.items()):
            if number not in self._pending:
                continue  # a refusal of one that was carried on meanwhile has ended it
            if pending.again:
                self._fail(number)
            else:
                self._pending[number] = replace(pending, again=True)
                self._carry(number)

    def _dockers(self) -> socket.socket | None:
        """Return the socket towards Docker's name server; None: it cannot be opened now."""
        if self._upstream is None and self._clock() - self._asked_s >= AGAIN_S:
            self._asked_s = self._clock()
            try:
                self._upstream = self._sockets.ask()
            except (LinkError, OSError):
                return None
            self._share.watch(self._upstream, self._read_upstream)
        return self._upstream

    def _hang_up(self) -> None:
        if self._upstream is not None:
            self._share.unwatch(self._upstream)
            self._upstream.close()
            self._upstream = None

    def _read_upstream(self) -> None:
        for _ in range(BATCH):
            if self._upstream is None:
                return
            try:
                answer = self._upstream.recv(ANSWER_MAX)
            except BlockingIOError:
                return
            except OSError:
                self._carry_again()
                return
            pending = self._pending.pop(answer[:ID_BYTES], None)
            if pending is not None:
                self._send(pending.query[:ID_BYTES] + answer[ID_BYTES:], pending.asker)
            if not self._share.lasts():
                return

    def _fail(self, number: bytes) -> None:
        pending = self._pending.pop(number)
        self._counts.failed += 1
        self._send(write_failure(pending.query), pending.asker)

    def _send(self, answer: bytes, asker: Any) -> None:
        try:
            self._sockets.udp.sendto(answer, asker)
        except OSError as error:  # it has gone, or takes nothing more: it asks again
            log.debug("an answer is lost: %s", error)

    def _accept(self) -> None:
        try:
            opened, _ = self._sockets.tcp.accept()
        except OSError:
            return
        if len(self._streams) >= STREAMS_MAX or not self._places.take():
            self._counts.refused += 1
            opened.close()
            return
        opened.setblocking(False)
        self._streams.add(Stream(self, opened, self._connect, self._share, self._end_stream,
                                 now_s=self._clock()))

    def _end_stream(self, stream: Stream) -> None:
        self._streams.discard(stream)
        self._places.give_back()

    def _connect(self) -> socket.socket | None:
        try:
            connected = self._sockets.connect()
        except (LinkError, OSError):
            self._counts.failed += 1
            return None
        self._counts.forwarded += 1
        return connected
