"""Passes dockerd's calls on to the driver, over unix sockets, and fails chosen ones on demand.

A fault is a function of the request and the driver's answer.
"""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType

from driver.process.unix_http import UnixConnection

Answer = tuple[int, bytes]  # HTTP status, body
Forward = Callable[[], Answer]


class Cut(Exception):
    """Raised by a fault: the connection ends without an answer."""


Fault = Callable[[Forward], Answer]


def refuse(text: str) -> Fault:
    """The driver never hears of the call; dockerd gets `text` as its error."""
    return lambda forward: (200, json.dumps({"Err": text, "Error": text}).encode())


def do_and_refuse(text: str) -> Fault:
    """The driver serves the call; dockerd gets `text` as its error all the same."""
    def fault(forward: Forward) -> Answer:
        _expect_success(forward())
        return refuse(text)(forward)

    return fault


def cut(forward: Forward) -> Answer:
    """The driver never hears of the call; dockerd loses the connection."""
    raise Cut


def do_and_cut(forward: Forward) -> Answer:
    """The driver serves the call; dockerd loses the connection before the answer."""
    _expect_success(forward())
    raise Cut


def changed(edit: Callable[[dict], object]) -> Fault:  # type: ignore[type-arg]
    """The driver serves the call; dockerd gets its answer as `edit` changed it."""
    def fault(forward: Forward) -> Answer:
        status, body = forward()
        answer = json.loads(body)
        edit(answer)
        return status, json.dumps(answer).encode()

    return fault


def _expect_success(answer: Answer) -> None:
    assert answer[0] == 200, answer
    assert not json.loads(answer[1]).get("Err"), answer


class FaultProxy:
    """Context manager.  `fail` plans faults for the next calls of a name; `calls` lists all."""

    def __init__(self, path: str, behind: str) -> None:
        """Listen on `path`, pass on to `behind`; both are paths as this process sees them."""
        self.calls: list[str] = []
        self._path, self._behind = path, behind
        self._planned: dict[str, list[Fault]] = {}
        self._guard = threading.Lock()

    def __enter__(self) -> FaultProxy:
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        self._server = _Server(self._path, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def fail(self, call: str, *faults: Fault) -> None:
        """Plan these faults, in order, for the next calls named `call` ("Join", say)."""
        with self._guard:
            self.calls.clear()
            self._planned = {call: list(faults)}

    def pending(self) -> int:
        """Return how many planned faults are still to come."""
        with self._guard:
            return sum(map(len, self._planned.values()))

    def answer(self, call: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """Return dockerd's answer.  Error: Cut."""
        def forward() -> Answer:
            connection = UnixConnection(self._behind, timeout_s=30)
            try:
                connection.putrequest("POST", "/" + call, skip_host=True,
                                      skip_accept_encoding=True)
                for name, value in headers:
                    connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        with self._guard:
            self.calls.append(call)
            planned = next((self._planned[name] for name in (call, call.partition(".")[2])
                            if self._planned.get(name)), None)
            fault = planned.pop(0) if planned else None
        return forward() if fault is None else fault(forward)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False  # dockerd keeps its connections

    def __init__(self, path: str, proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(path, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        assert isinstance(self.server, _Server)
        headers = [(name, value) for name, value in self.headers.items()
                   if name.lower() != "connection"]
        try:
            status, answer = self.server.proxy.answer(self.path.lstrip("/"), headers, body)
        except Cut:
            self.close_connection = True
            return
        except OSError as error:  # no driver behind us
            status, answer = HTTPStatus.BAD_GATEWAY, json.dumps({"Err": str(error)}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        # If dockerd kept its connection, this proxy would still serve it after its end.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the driver's log has it."""

    def address_string(self) -> str:
        return "dockerd"
