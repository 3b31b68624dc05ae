"""Serves HTTP in dockerd's place, on a unix socket; the test says what it answers."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

POLL_S = 0.02  # for how long the end of the server waits


@contextmanager
def serving(path: str, answer: Callable[[str], tuple[int, object]]) -> Iterator[None]:
    """Answer each GET with what `answer` returns for its URL: a status, and an object for JSON.

    An iterator of bytes is sent as a stream.  If it raises ConnectionError, the connection ends.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, value = answer(self.path)
            if isinstance(value, Iterator):
                self.stream(status, value)
                return
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def stream(self, status: int, chunks: Iterator[bytes]) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for chunk in chunks:
                    self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")
            except ConnectionError:  # of the test's, or the other side has gone
                self.close_connection = True

        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: object) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(path, Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(POLL_S,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
