"""Counts visits in Redis, and queues each for the writer.  Python's standard library only.

    app.py          serve: GET / answers the count
    app.py health   succeed if the running one answers
"""

import socket
import sys
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 8000
# In one: what is counted is queued, whatever happens in between.
COUNT = "redis.call('RPUSH', 'visits', ARGV[1]); return redis.call('INCR', 'count')"


def redis(*words: str) -> str:
    """Run a command of Redis that answers with one line."""
    sent = f"*{len(words)}\r\n" + "".join(f"${len(w.encode())}\r\n{w}\r\n" for w in words)
    with socket.create_connection(("redis", 6379), 5) as connection:
        connection.sendall(sent.encode())
        answer = connection.makefile().readline().rstrip()
    if not answer or answer.startswith("-"):
        raise OSError(f"redis: {answer or 'no answer'}")
    return answer[1:]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        """Count it, unless somebody asks for our health."""
        try:
            if self.path == "/health":
                self._answer(200, redis("PING"))
            else:
                self._answer(200, f"visit {redis('EVAL', COUNT, '0', self.path)}")
        except OSError as error:
            self._answer(503, str(error))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log visits only."""
        if self.path != "/health":
            super().log_request(code, size)

    def _answer(self, status: int, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def is_healthy() -> bool:
    """Ask the running one."""
    connection = HTTPConnection("127.0.0.1", PORT, timeout=4)
    connection.request("GET", "/health")
    return connection.getresponse().status == 200


if __name__ == "__main__":
    if sys.argv[1:] == ["health"]:
        sys.exit(not is_healthy())
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
