"""Serves names in all sandboxes, from one thread: answers what is known here, forwards the rest.

A query that is not for us goes to Docker's own name server unchanged but for its number.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from driver.dns.client import Client, Counts
from driver.services.ports import NameReply, Question

log = logging.getLogger(__name__)

RENEW_S: Final = 0.25  # between two signs that this thread lives


class Sockets(Protocol):
    """link.sandbox.resolving.NameSockets."""

    @property
    def udp(self) -> socket.socket: ...

    @property
    def tcp(self) -> socket.socket: ...

    @property
    def ask(self) -> Callable[[], socket.socket]: ...

    @property
    def connect(self) -> Callable[[], socket.socket]: ...

    def close(self) -> None: ...


class NameServer:
    """The name servers of all sandboxes.  Thread-safe."""

    def __init__(self, resolve: Callable[[str, Question], NameReply | None],
                 renew: Callable[[bool], None],
                 clock: Callable[[], float] = time.monotonic,
                 spent: Callable[[], float] = time.thread_time) -> None:
        """resolve: by sandbox key; None: it is not ours to answer.  Must not block.

        renew: says that names are served, for now (True), or no more.  clock, spent: see Client.
        """
        self._resolve = resolve
        self._renew = renew
        self._clock = clock
        self._spent = spent
        self._selector = selectors.DefaultSelector()
        self._clients: dict[str, Client] = {}
        self._counts = Counts()
        self._orders: deque[Callable[[], None]] = deque()
        self._woken, self._waker = socket.socketpair()
        for each in (self._woken, self._waker):
            each.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._obey)
        self._stopping = self._told = False
        self._thread = threading.Thread(target=self._run, name="names", daemon=True)

    def start(self) -> None:
        """Start serving."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving: queries go to Docker's name server at once."""
        if self._thread.is_alive():
            self._order(self._end)
            self._thread.join()
        else:  # it was never started
            self._obey()
            self._end()
        self._selector.close()
        for each in (self._woken, self._waker):
            each.close()

    def add(self, sandbox_key: str, sockets: Sockets) -> None:
        """Serve a sandbox in place of an earlier one with this key; the sockets are ours then."""
        self._order(lambda: self._add(sandbox_key, sockets))

    def remove(self, sandbox_key: str) -> None:
        """Undo `add`.  Unknown: nothing to do."""
        self._order(lambda: self._remove(sandbox_key))

    def counts(self) -> Counts:
        """Return what has been done since the start."""
        return self._counts

    def _order(self, act: Callable[[], None]) -> None:
        self._orders.append(act)
        with suppress(OSError):  # full: it is about to wake anyway; or closed
            self._waker.send(b"x")

    def _obey(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        while self._orders:
            self._orders.popleft()()

    def _run(self) -> None:
        renewed_s = 0.0
        while not self._stopping:
            now_s = self._clock()
            if now_s - renewed_s >= RENEW_S:
                renewed_s = now_s
                self._renew_or_log(serving=True)
                for client in self._clients.values():
                    _do_or_log(partial(client.tick, now_s))
            for key, _ in self._selector.select(RENEW_S):
                if self._selector.get_map().get(key.fd) is not key:
                    continue  # what was done for an earlier one has closed it
                _do_or_log(key.data)

    def _renew_or_log(self, *, serving: bool) -> None:
        try:
            self._renew(serving)
            self._told = False
        except Exception:
            if not self._told:  # it is called several times a second
                log.exception("containers' queries go to Docker's name server")
            self._told = True

    def _add(self, sandbox_key: str, sockets: Sockets) -> None:
        self._remove(sandbox_key)
        self._clients[sandbox_key] = Client(
            sockets, lambda question: self._resolve(sandbox_key, question), self._counts,
            watch=self._watch, unwatch=self._selector.unregister, clock=self._clock,
            spent=self._spent)

    def _watch(self, watched: socket.socket, act: Callable[[], None]) -> None:
        self._selector.register(watched, selectors.EVENT_READ, act)

    def _remove(self, sandbox_key: str) -> None:
        client = self._clients.pop(sandbox_key, None)
        if client is not None:
            client.close()

    def _end(self) -> None:
        self._stopping = True
        self._renew_or_log(serving=False)
        for sandbox_key in list(self._clients):
            self._remove(sandbox_key)


def _do_or_log(act: Callable[[], None]) -> None:
    try:
        act()
    except Exception:  # the thread must outlive a bug that one query meets
        log.exception("a query for a name met a mistake of slim's")
