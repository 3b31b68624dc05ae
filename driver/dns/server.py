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
from typing import Final, Protocol

from driver.dns.client import ALL_STREAMS_MAX, Client, Counts, Places
from driver.dns.share import PAUSE_S, Share
from driver.services.ports import NameReply, Question

log = logging.getLogger(__name__)

RENEW_S: Final = 0.25  # between two signs that this thread lives
COMPLAIN_S: Final = 10.0  # between two mistakes that are logged


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

        renew: says that names are served, for now (True), or no more.  clock, spent: see Loop.
        """
        self._resolve = resolve
        self._renew = renew
        self.clock = clock
        self.spent = spent
        self.turn = 0
        self._selector = selectors.DefaultSelector()
        self._clients: dict[str, Client] = {}
        self._counts = Counts()
        self._orders: deque[Callable[[], None]] = deque()
        self._woken, self._waker = socket.socketpair()
        for each in (self._woken, self._waker):
            each.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._obey)
        self._acts: deque[Callable[[], object]] = deque()  # of the next round
        self._paused: set[Share] = set()
        self._places = Places(ALL_STREAMS_MAX)
        self._renewed_s = self._ticked_s = self._went_on_s = -1e9
        self._complained_s = -1e9
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

    # ----------------------------------------------------------- share.Loop, by the thread only
    def watch(self, watched: socket.socket, act: Callable[[], object]) -> None:
        """See Loop."""
        self._selector.register(watched, selectors.EVENT_READ, act)

    def unwatch(self, watched: socket.socket) -> None:
        """See Loop."""
        self._selector.unregister(watched)

    def soon(self, act: Callable[[], object]) -> None:
        """See Loop."""
        self._acts.append(act)

    def pause(self, share: Share) -> None:
        """See Loop."""
        self._paused.add(share)

    def _run(self) -> None:
        while not self._stopping:
            self.turn += 1
            self._renew_if_due()
            if self.clock() - self._ticked_s >= RENEW_S:
                self._ticked_s = self.clock()
                for client in list(self._clients.values()):
                    self._do(client.tick)
            if self.clock() - self._went_on_s >= PAUSE_S:
                self._went_on_s = self.clock()
                self._paused = {share for share in self._paused if not share.go_on()}
            acts, self._acts = self._acts, deque()
            for act in acts:
                self._do(act)
            for key, _ in self._selector.select(self._wait_s()):
                if self._selector.get_map().get(key.fd) is not key:
                    continue  # what was done for an earlier one has closed it
                self._do(key.data)

    def _wait_s(self) -> float:
        if self._acts:
            return 0.0
        return PAUSE_S if self._paused else RENEW_S

    def _do(self, act: Callable[[], object]) -> None:
        """Do one thing, and say that the thread lives, as many more may wait."""
        try:
            act()
        except Exception:  # the thread must outlive a bug that one query meets
            if self.clock() - self._complained_s >= COMPLAIN_S:
                self._complained_s = self.clock()
                log.exception("a query for a name met a mistake of slim's")
        self._renew_if_due()

    def _renew_if_due(self) -> None:
        now_s = self.clock()
        if now_s - self._renewed_s >= RENEW_S and not self._stopping:
            self._renewed_s = now_s
            self._renew_or_log(serving=True)

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
            sockets, lambda question: self._resolve(sandbox_key, question), self._counts, self,
            self._places)

    def _remove(self, sandbox_key: str) -> None:
        client = self._clients.pop(sandbox_key, None)
        if client is not None:
            client.close()

    def _end(self) -> None:
        self._stopping = True
        self._renew_or_log(serving=False)
        for sandbox_key in list(self._clients):
            self._remove(sandbox_key)
