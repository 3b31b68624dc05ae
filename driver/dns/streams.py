"""Answers queries that come by TCP (RFC 7766), and carries the others on by a connection too."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from driver.dns.share import Share

IDLE_S: Final = 30.0  # then a connection is closed
BUFFER_MAX: Final = 1 << 17  # bytes that one side may have sent, and the other not taken
READ_MAX: Final = 512  # bytes at a time: a dozen queries, then others have their turn
_LENGTH: Final = 2  # bytes before each message


class Answering(Protocol):
    """dns.client.Client."""

    def answer(self, query: bytes, *, udp: bool) -> bytes | None:
        """Return the answer; None: it is not ours to give."""


class Stream:
    """One program's connection, and ours to Docker's name server once it is needed."""

    def __init__(self, answering: Answering, opened: socket.socket,
                 connect: Callable[[], socket.socket | None], share: Share,
                 ended: Callable[[Stream], None], *, now_s: float) -> None:
        """connect: opens the connection to Docker's name server; None: it cannot be opened."""
        self._answering = answering
        self._opened = opened
        self._connect = connect
        self._share = share
        self._ended = ended
        self._used, self._end_s = True, now_s + IDLE_S
        self._upstream: socket.socket | None = None
        self._queries = self._answers = b""  # that have come in part
        self._working = self._closed = False
        self._unsent = b""  # to Docker's name server, which is not connected yet
        share.watch(opened, self._read)

    def close(self) -> None:
        """End it.  Idempotent."""
        if self._closed:
            return
        if not self._working:
            self._share.unwatch(self._opened)
        if self._upstream is not None:
            self._share.unwatch(self._upstream)
            self._upstream.close()
            self._upstream = None
        self._opened.close()
        self._closed = True
        self._ended(self)

    def tick(self, now_s: float) -> None:
        """Close it if nobody uses it; send what could not be sent before."""
        if self._used:
            self._used, self._end_s = False, now_s + IDLE_S
        elif now_s >= self._end_s:
            self.close()
            return
        if self._unsent and self._upstream is not None:
            self._ask(b"")

    def _read(self) -> None:
        data = self._receive(self._opened)
        if data is not None:
            self._queries += data
            self._work()

    def _work(self) -> None:
        """Answer the queries that are there, as far as the sandbox's turn lasts."""
        if self._closed:
            return
        while (query := _whole(self._queries)) is not None:
            self._queries = self._queries[_LENGTH + len(query):]
            answer = self._answering.answer(query, udp=False)
            if answer is None:
                if not self._ask(_framed(query)):
                    return
            elif not self._tell(_framed(answer)):
                return
            if not self._share.lasts():
                break
        self._go_on_later(waiting=_whole(self._queries) is not None)

    def _go_on_later(self, *, waiting: bool) -> None:
        """Read no more while queries wait for another turn."""
        if waiting and not self._working:
            self._share.unwatch(self._opened)
        elif self._working and not waiting:
            self._share.watch(self._opened, self._read)
        self._working = waiting
        if waiting:
            self._share.soon(self._work)

    def _read_upstream(self) -> None:
        assert self._upstream is not None
        data = self._receive(self._upstream)
        if data is None:
            return
        self._answers += data
        while (answer := _whole(self._answers)) is not None:
            self._answers = self._answers[_LENGTH + len(answer):]
            if not self._tell(_framed(answer)):  # whole: ours may come in between
                return

    def _receive(self, source: socket.socket) -> bytes | None:
        """Return what has come; None: nothing, or it has ended, and so have we."""
        try:
            data = source.recv(READ_MAX)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self.close()
            return None
        self._used = True
        return data

    def _ask(self, message: bytes) -> bool:
        if self._upstream is None:
            self._upstream = self._connect()
            if self._upstream is None:
                self.close()
                return False
            self._share.watch(self._upstream, self._read_upstream)
        self._unsent += message
        # It takes nothing now; or it has ended, and we hear of that when we read.
        with suppress(OSError):
            self._unsent = self._unsent[self._upstream.send(self._unsent):]
        if len(self._unsent) > BUFFER_MAX:
            self.close()
            return False
        return True

    def _tell(self, message: bytes) -> bool:
        """Send the program a message; one that reads so little is cut off."""
        try:
            if self._opened.send(message) == len(message):
                return True
        except OSError:
            pass
        self.close()
        return False


def _whole(data: bytes) -> bytes | None:
    """Return the first message if all of it is there."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "big")
    return data[_LENGTH:end] if len(data) >= max(end, _LENGTH) else None


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(_LENGTH, "big") + message
