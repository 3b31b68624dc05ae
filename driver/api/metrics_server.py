"""Serves metrics over HTTP at an address of this host: GET /metrics, and nothing else.

There is no authentication: who reaches the address may read.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

from driver.api.server import ApiServer
from driver.errors import SlimError
from driver.work.shown import at_port

PATH: Final = "/metrics"
THREADS: Final = 2
CONNECTIONS: Final = 32  # Prometheus keeps one
BACKLOG: Final = 16

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class AddressInUseError(SlimError):
    """The address cannot be listened at: another process does, or this host does not have it."""


class TcpListener:
    """A listening socket at an address of this host."""

    def __init__(self, host: str, port: int, chosen_by: str = "--metrics") -> None:
        """host: an IP address.  chosen_by: what to change.  Error: AddressInUseError."""
        self.path = at_port(host, port)
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if ":" in host:  # [::] is not 0.0.0.0, too
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.socket.bind((host, port))
            self.socket.listen(BACKLOG)
        except OSError as error:
            self.socket.close()
            raise AddressInUseError(
                f"cannot listen at {self.path}: {error.strerror}; end what listens there, or "
                f"choose another {chosen_by}") from error

    def unlink(self) -> None:
        """Do nothing: there is no file."""


class MetricsServer:
    """Serves an application at one address, in threads of its own."""

    def __init__(self, make_app: Callable[[], WsgiApp], host: str, port: int) -> None:
        """make_app: called when it is certain that the address can be used."""
        self._make_app = make_app
        self._host = host
        self._port = port
        self._server: ApiServer | None = None

    def start(self) -> None:
        """Listen and answer.  Error: AddressInUseError."""
        listener = TcpListener(self._host, self._port)
        try:
            self._server = ApiServer(only_metrics(self._make_app()), listener.path,
                                     threads=THREADS, listener=listener, name="metrics server",
                                     connections=CONNECTIONS)
            self._server.start()
        except BaseException:
            listener.socket.close()
            raise

    def stop(self) -> None:
        """Stop listening, after the answers that are under way.  Idempotent."""
        if self._server is not None:
            self._server.stop()


def only_metrics(app: WsgiApp) -> WsgiApp:
    """Wrap an application that answers any path: only GET /metrics gets through."""
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            return _refuse("404 Not Found", f"only {PATH} is here\n", start_response)
        if environ["REQUEST_METHOD"] != "GET":
            return _refuse("405 Method Not Allowed", "only GET\n", start_response,
                           ("Allow", "GET"))
        return app(environ, start_response)

    return answer


def _refuse(status: str, text: str, start_response: Callable[..., Any],
            *headers: tuple[str, str]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain"), *headers])
    return [text.encode()]
