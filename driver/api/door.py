"""Serves the door of a cluster's member over TLS: hosts join, renew certificates, leave.

Who has no certificate of a host may ask who we are, and to join.  What a host may do, its
certificate's common name decides.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from driver.errors import InvalidRequest, SlimError

BODY_MAX_BYTES = 64 << 10  # a request to join has 2 KB
TIMEOUT_S = 10.0  # for a handshake, and for each read and write
LIFE_S = 60.0  # of a connection, whatever it sends: who sends a byte now and then ends, too
CONNECTIONS = 64  # at once; more wait in the listen queue
FROM_ONE = 8  # connections at once from one address; more are refused: others shall come in
PEER = "slim.peer"  # the asking host's common name in the WSGI environment; "" without certificate
HOST_PREFIX = "host-"

log = logging.getLogger("slim.door")

Fields = dict[str, Any]


class Answering(Protocol):
    """Answers the requests; see driver.cluster.door.enrolment.Enrolment."""

    def introduce(self) -> Fields: ...
    def join(self, fields: Mapping[str, Any], source: str) -> Fields: ...
    def renew(self, host_id: str, fields: Mapping[str, Any]) -> Fields: ...
    def become_member(self, host_id: str) -> Fields: ...
    def tell(self, host_id: str) -> Fields: ...
    def leave(self, host_id: str, fields: Mapping[str, Any]) -> Fields: ...
    def stay(self, host_id: str) -> Fields: ...


def create_door(answering: Answering) -> Flask:
    """Build the WSGI application."""
    app = Flask("slim-door", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_MAX_BYTES
    calls: dict[str, Callable[[Fields], Fields]] = {
        "introduce": lambda _: answering.introduce(),
        "join": lambda fields: answering.join(fields, request.remote_addr or ""),
        "renew": lambda fields: answering.renew(_host(), fields),
        "member": lambda _: answering.become_member(_host()),
        "tell": lambda _: answering.tell(_host()),
        "leave": lambda fields: answering.leave(_host(), fields),
        "stay": lambda _: answering.stay(_host())}
    for name, call in calls.items():
        app.add_url_rule(f"/{name}", endpoint=name, view_func=_view(call), methods=["POST"],
                         provide_automatic_options=False)
    app.register_error_handler(HTTPException, lambda error: _json(
        {"error": str(error.description)}, error.code or 500))
    return app


def _host() -> str:
    name = str(request.environ.get(PEER, ""))
    if not name.startswith(HOST_PREFIX):
        raise InvalidRequest("this is for hosts of the cluster: their certificate is wanted")
    return name.removeprefix(HOST_PREFIX)


def _view(call: Callable[[Fields], Fields]) -> Callable[[], Response]:
    def view() -> Response:
        try:
            fields = json.loads(request.get_data() or b"{}")
            if not isinstance(fields, dict):
                raise InvalidRequest("want an object")
            return _json(call(fields), 200)
        except (ValueError, RecursionError):
            return _json({"error": "the request is no JSON"}, 400)
        except SlimError as error:
            status = error.http_status if error.http_status != 200 else 409
            return _json({"error": str(error)}, status)
        except HTTPException:
            raise  # the body is too large
        except Exception:
            log.exception("%s failed", request.path)
            return _json({"error": "it failed there: see the log of slim-cluster"}, 500)

    return view


def _json(fields: Fields, status: int) -> Response:
    return Response(json.dumps(fields), status, mimetype="application/json")


class _Handler(WSGIRequestHandler):
    timeout = TIMEOUT_S
    protocol_version = "HTTP/1.0"  # one request per connection

    def get_environ(self) -> dict[str, Any]:
        environ = super().get_environ()  # of the request (WSGI), and not of the process
        connection: Any = self.connection
        subject = (connection.getpeercert() or {}).get("subject", ())
        environ[PEER] = next((value for parts in subject for name, value in parts
                              if name == "commonName"), "")
        return environ

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:  
        log.debug("%s: " + format, self.address_string(), *args)


class DoorServer(ThreadingMixIn, WSGIServer):
    """The server.  Each connection has a thread, which also makes its TLS handshake."""

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, app: Flask, address: str, port: int, folder: Path,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """folder: has etcd.crt, etcd.key and ca.crt, read again for each connection.

        clock: seconds, monotonic.
        Error: OSError (the address is not this host's, the port is taken).
        """
        self._folder = folder
        self._clock = clock
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        self._lock = threading.Lock()  # guards the two that follow
        self._from: Counter[str] = Counter()  # connections of each address
        self._begun: dict[ssl.SSLSocket, float] = {}
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)
        self.set_app(app)
        self._thread = threading.Thread(target=self.serve_forever, name="door", daemon=True)

    def server_bind(self) -> None:
        """Bind; the base class would look a name up."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "slim", self.socket.getsockname()[1]
        self.setup_environ()

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections; those in progress end by themselves.  Idempotent."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Wait for a free place, so that a flood of connections does not become one of threads."""
        with self._lock:
            full = self._from[client_address[0]] >= FROM_ONE
        if full or not self._free.acquire(timeout=TIMEOUT_S):
            self.shutdown_request(request)
            return
        with self._lock:
            self._from[client_address[0]] += 1
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End connections that have lasted too long; called twice a second."""
        with self._lock:
            late = [connection for connection, since_s in self._begun.items()
                    if self._clock() - since_s > LIFE_S]
        for connection in late:
            with contextlib.suppress(OSError):
                # Below TLS, which another thread uses.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands here, in the connection's own thread, and answer."""
        try:
            request.settimeout(TIMEOUT_S)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(self._folder / "etcd.crt", self._folder / "etcd.key")
            context.load_verify_locations(self._folder / "ca.crt")
            context.verify_mode = ssl.CERT_OPTIONAL
            with context.wrap_socket(request, server_side=True,
                                     do_handshake_on_connect=False) as wrapped:
                self._answer(wrapped, client_address)
        except (OSError, ValueError) as error:
            log.debug("a connection of %s failed: %s", client_address[0], error)
        finally:
            with self._lock:
                self._from[client_address[0]] -= 1
                if not self._from[client_address[0]]:
                    del self._from[client_address[0]]
            self._free.release()
            self.shutdown_request(request)

    def _answer(self, connection: ssl.SSLSocket, client_address: Any) -> None:
        with self._lock:
            self._begun[connection] = self._clock()
        try:
            connection.do_handshake()
            self.finish_request(connection, client_address)
            connection.shutdown(socket.SHUT_RDWR)
        finally:
            with self._lock:
                del self._begun[connection]

    def close_request(self, request: Any) -> None:
        """Close what may have been closed by its TLS layer."""
        request.close()
