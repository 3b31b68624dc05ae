"""Relays TCP between one client and one server until a test cuts it: it is silent, or refuses.

A silent relay loses nothing.  As after an outage of a real network, whose ends send again, the
data arrives late and in order.
"""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType

CHUNK = 1 << 16


class Relay:
    """Context manager; listens on a port of the loopback device."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._lock = threading.RLock()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._silent = self._ended = False
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._ended = True
        self._waker.send(b"x")
        self._thread.join()
        self._drop_all()
        for end in (self._listener, self._wake, self._waker):
            end.close()
        self._selector.close()

    def silence(self) -> None:
        """Pass nothing on; connections stay, and new ones get no answer."""
        with self._lock:
            self._silent = True
            for end in (*self._pairs, self._listener):
                self._unregister(end)

    def refuse(self) -> None:
        """End all connections and refuse new ones."""
        with self._lock:
            self._unregister(self._listener)
            self._listener.close()
            self._drop_all()

    def mend(self) -> None:
        """Pass everything on again."""
        with self._lock:
            self._silent = False
            if self._listener.fileno() < 0:
                self._listener = self._listen(self.port)
            else:
                self._selector.register(self._listener, selectors.EVENT_READ)
            for end in self._pairs:
                self._selector.register(end, selectors.EVENT_READ)
        self._waker.send(b"x")

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        self._selector.register(listener, selectors.EVENT_READ)
        return listener

    def _run(self) -> None:
        while not self._ended:
            # epoll takes changes of the selector while it waits; select() needs a wake for them.
            for key, _ in self._selector.select():
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._wake:
                    self._wake.recv(CHUNK)
                    continue
                with self._lock:
                    if self._silent or end.fileno() < 0:
                        continue
                    if end is self._listener:
                        self._accept()
                    elif end in self._pairs:
                        self._pass_on(end)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        self._pairs[client], self._pairs[server] = server, client
        for end in (client, server):
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        try:
            data = end.recv(CHUNK)
            if data:
                self._pairs[end].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        other = self._pairs.pop(end)
        self._pairs.pop(other)
        for gone in (end, other):
            self._unregister(gone)
            gone.close()

    def _drop_all(self) -> None:
        for end in list(self._pairs):
            if end in self._pairs:
                self._drop(end)

    def _unregister(self, end: socket.socket) -> None:
        if end.fileno() in self._selector.get_map():
            self._selector.unregister(end)
