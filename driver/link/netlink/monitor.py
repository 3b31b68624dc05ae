"""Listens, in a thread, to rtnetlink notifications of the driver's namespace.

Lost notifications (ENOBUFS) are made up for by a dump.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from driver.errors import LinkError
from driver.link.netlink import news as link_news
from driver.link.netlink.sockets import Route, open_route, step

_log = logging.getLogger(__name__)

_RECEIVE_BYTES: Final = 1 << 18  # larger than any one notification, room for several
_RETRY_S: Final = 1.0  # after a failed dump


class Listener(Protocol):
    """What the monitor calls, always from its own thread, one call at a time."""

    def resync(self, route: Route) -> None:
        """Read the whole state: at the start, and whenever notifications were lost."""

    def changed(self, messages: Sequence[Any]) -> None:
        """Handle notifications, in the order in which the kernel sent them.

        Those of links are LinkNews, others are pyroute2's messages.
        """


class Monitor:
    """Listens from `start` to `stop`; a context manager."""

    def __init__(self, name: str, groups: int, listener: Listener) -> None:
        """groups: bit mask of RTMGRP_... values."""
        self._name = name
        self._groups = groups
        self._listener = listener
        self._thread: threading.Thread | None = None
        self._wake = -1

    def start(self) -> None:
        """Subscribe, then dump in the thread: nothing is missed once this has returned.

        Error: LinkError (no socket).
        """
        if self._thread is not None:
            return
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        opened = open_route()
        try:
            with step(f"subscribe to {self._name} notifications"):
                route = opened.__enter__()
                route.bind(groups=self._groups)
        except BaseException:
            os.close(wake)
            raise
        self._wake = wake

        def listen() -> None:
            try:
                self._listen(route, wake)
            finally:
                opened.__exit__(None, None, None)

        self._thread = threading.Thread(target=listen, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it; the listener is not called afterwards.  Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        os.eventfd_write(self._wake, 1)
        if thread is not threading.current_thread():
            thread.join()
        os.close(self._wake)

    def __enter__(self) -> Monitor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _listen(self, route: Route, wake: int) -> None:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(route.fileno(), select.POLLIN)
        complete = self._resync()
        while True:
            ready = dict(poll.poll(None if complete else _RETRY_S * 1000))
            if wake in ready:
                return
            messages, lost = _receive(route) if ready else ([], False)
            if lost or not complete:
                complete = self._resync()  # the dump is newer than the messages read so far
            else:
                # The kernel does not repeat a message that was not handled: dump the whole state.
                complete = self._guarded("notification", partial(self._listener.changed, messages))

    def _resync(self) -> bool:
        def resync() -> None:
            # A separate socket: on the subscribed one, notifications would mix with the dump.
            with open_route() as route:
                self._listener.resync(route)

        return self._guarded("dump", resync)

    def _guarded(self, what: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception:  # the thread must outlive a listener's mistake
            _log.exception("%s: %s not handled", self._name, what)
            return False
        return True


def _receive(route: Route) -> tuple[list[Any], bool]:
    """Read all pending notifications; True: the kernel had to drop some."""
    messages: list[Any] = []
    lost = False
    while True:
        try:
            raw, _ = route.recvfrom(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                lost = True
                continue
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return messages, lost
            raise LinkError(f"netlink notifications: {error}") from error
        for kind, message in link_news.split(raw):
            if link_news.is_link(kind):
                messages.append(link_news.read(message))
            else:
                messages.extend(route.marshal.parse(message))
