"""Owns a thread that listens to rtnetlink notifications of the driver's namespace.

It must not know what they mean.  Lost notifications (ENOBUFS) are made good by a dump.
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
    """What the monitor calls, always from its own thread and never two calls at once."""

    def resync(self, route: Route) -> None:
        """Look at the whole state: at the start, and whenever notifications were lost."""

    def changed(self, messages: Sequence[Any]) -> None:
        """Take notifications, in the order in which the kernel sent them.

        Those of links as LinkNews, others as pyroute2 reads them.
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
        """Subscribe, then dump in the thread: nothing is missed after this has returned.

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
        """End the thread and wait for it.  No call is made afterwards.  Idempotent."""
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
                complete = self._resync()  # newer than the messages read so far
            else:
                # One that was not handled is not repeated by the kernel: the whole is looked at.
                complete = self._guarded("notification", partial(self._listener.changed, messages))

    def _resync(self) -> bool:
        def resync() -> None:
            # A socket of its own: on the subscribed one notifications would mix in.
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
    """Read all that is there; True: the kernel had to drop notifications."""
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
