"""Runs the unix socket and the WSGI server behind it, from binding to a graceful stop.

Callers can connect while the driver still starts: they wait in the socket's queue.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from waitress import create_server, wasyncore

from driver.errors import SlimError

log = logging.getLogger("slim.api")

THREADS = 64  # dockerd starts and stops many containers concurrently; a call may wait for etcd
BACKLOG = 128  # callers that wait while the driver starts, which takes a few seconds
CONNECTIONS = 1000  # dockerd keeps some open, and opens one more per further call
# Idle connections: dockerd drops them after 30 s.  We must keep them longer, because cutting a
# connection during a request makes dockerd repeat the request without its body.
IDLE_S = 120
STOP_S = 6.0  # for requests in progress to finish; none takes longer than 5 s
SOCKET_MODE = 0o600
SOCKET_PATH_MAX = 107  # bytes; sun_path less the final zero


class SocketInUseError(SlimError):
    """Another process serves the socket, or its path cannot be used."""


Socket = socket.socket


class Listening(Protocol):
    """A listening socket; `path` is for people."""

    @property
    def path(self) -> str: ...

    @property
    def socket(self) -> Socket: ...

    def unlink(self) -> None:
        """Make new callers see at once that nobody serves here any more."""


class Listener:
    """The listening socket; a client that connects waits until an ApiServer answers.

    dockerd gives up on a plugin if it cannot connect some seconds after the plugin was started, and
    on a call after 15 s.
    """

    def __init__(self, path: str) -> None:
        """Bind and listen.  Error: SocketInUseError."""
        self.path = path
        self.socket = bind(path)
        self.socket.listen(BACKLOG)
        self._file = _identity(path)

    def unlink(self) -> None:
        """Remove the file, unless another driver has since taken over the path.  Idempotent."""
        try:
            if _identity(self.path) == self._file:
                os.unlink(self.path)
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Remove the file and refuse the waiting callers."""
        self.unlink()
        self.socket.close()


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_ctime_ns  # the inode number alone is soon reused


class ApiServer:
    """Serves a WSGI application on a socket, in its own thread."""

    def __init__(self, app: Callable[..., Any], path: str, *, threads: int = THREADS,
                 listener: Listening | None = None, name: str = "api",
                 connections: int = CONNECTIONS) -> None:
        """listener: an open one on that path; None: start() makes one.

        name: the thread's.  connections: at most so many at once.
        """
        self._app = app
        self._path = path
        self._listener = listener
        self._threads = threads
        self._name = name
        self._connections = connections
        self._stopping = threading.Event()
        self._sockets: dict[int, Any] = {}  # waitress's map: descriptor -> dispatcher
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen, answer those already waiting, and return.  Error: SocketInUseError."""
        self._listener = self._listener or Listener(self._path)
        self._server = create_server(
            self._app, map=self._sockets, sockets=[self._listener.socket], threads=self._threads,
            connection_limit=self._connections, channel_timeout=IDLE_S, asyncore_use_poll=True,
            max_request_body_size=1 << 20, ident="slim", clear_untrusted_proxy_headers=True)
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        log.info("serving %s", self._path)

    def stop(self) -> None:
        """Unlink the socket, let requests in progress finish, close.  Idempotent."""
        if self._thread is None or self._listener is None:
            return
        # First: without a listener a socket file costs dockerd 15 s per attempt.
        self._listener.unlink()
        # In the server's own thread: if that saw the flag before the trigger is pulled, it would
        # close the trigger.
        self._server.trigger.pull_trigger(self._stopping.set)
        self._thread.join()
        self._thread = None
        log.info("stopped serving %s", self._path)

    def _run(self) -> None:
        while not self._stopping.is_set():
            wasyncore.loop(timeout=1, map=self._sockets, use_poll=True, count=1)
        self._server.accepting = False
        end = time.monotonic() + STOP_S
        while self._busy() and time.monotonic() < end:
            wasyncore.loop(timeout=0.05, map=self._sockets, use_poll=True, count=1)
        self._server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._sockets)

    def _busy(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len
                   for channel in list(self._server.active_channels.values()))


def bind(path: str) -> socket.socket:
    """Return a socket bound to `path`, mode 0600, not listening yet.

    A stale file that nobody listens on is removed.  Error: SocketInUseError.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise SocketInUseError(f"socket path {path} is longer than {SOCKET_PATH_MAX} bytes; "
                          "choose another --socket")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        ensure_free(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(path)
            # Nobody can connect before listen(), so the mode is set in time.
            os.chmod(path, SOCKET_MODE)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise SocketInUseError(f"cannot serve on {path}: {error.strerror}") from error
    return listener


def ensure_free(path: str) -> None:
    """Remove a socket file that nobody listens on.  Error: SocketInUseError."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUseError(f"{path} exists and is no socket; move it away or choose another "
                          "--socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (TimeoutError, BlockingIOError):
            pass  # a listener with a full queue is still a listener
    raise SocketInUseError(f"another process serves {path}; stop it or choose another --socket")
