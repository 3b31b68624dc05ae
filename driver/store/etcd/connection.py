"""Makes one connection to etcd (python-etcd3): TLS, login, and how long it may be silent.

etcd3's own watch and lease threads die silently, so only its connection, stubs and messages are
used; watch.py has the watch, registration.py keeps the lease.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc

from driver.errors import SettingsError, StoreUnavailable
from driver.store.etcd.advice import said
from driver.work import deadline

# etcd3 0.12.0 contains code generated for protobuf 3: only the pure Python runtime accepts it.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # raised by that generated code
    import etcd3
    import etcd3.etcdrpc as rpc

__all__ = ["Connection", "EtcdSettings", "NotReadyError", "error_text", "not_sent", "rpc"]

PORT = 2379
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"

CHANNEL_OPTIONS = (
    # A peer that is silent for 5 + 5 s is dead.  etcd allows a ping each 5 s (its
    # --grpc-keepalive-min-time) and none without a call in progress.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),  # no limit: a watch may be silent for hours
    # After an outage, retry within a second, not within two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a new login gets a new connection
    ("grpc.enable_http_proxy", 0),
)

T = TypeVar("T")
_Code = grpc.StatusCode


@dataclass(frozen=True)
class EtcdSettings:
    """Where etcd is and how to reach it; paths are of PEM files, empty: not used.

    They are read when a connection is made, and again when it fails and they have changed.
    """

    endpoints: tuple[str, ...]  # URLs, http:// or https://, with port
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    # Never logged.  If it is a function, it is called at each login.
    password: str | Callable[[], str] = field(default="", repr=False)
    endpoints_file: str = ""  # has the URLs, one a line; the client follows its changes


class NotReadyError(Exception):
    """Nobody answered before the call was made, so it certainly had no effect."""

    def __init__(self, error: Any) -> None:
        """error: a gRPC error, or a text."""
        super().__init__(error if isinstance(error, str) else error_text(error))


class Connection:
    """The etcd3 client of one endpoint, made when first needed.

    It is remade when its login has expired, and when it fails and its files have changed.
    """

    def __init__(self, url: str, settings: EtcdSettings) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            port = parts.port or PORT
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or not port:
            raise SettingsError(f"etcd endpoint {url!r}: want http://HOST:PORT or https://HOST:PORT")
        self.url = f"{parts.scheme}://{parts.netloc}"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._arguments: dict[str, Any] = {
            "host": host, "port": port, "grpc_options": CHANNEL_OPTIONS}
        if parts.scheme == "https":
            self._arguments["ca_cert"] = settings.ca or SYSTEM_CA
            if settings.cert:
                self._arguments["cert_cert"] = settings.cert
                self._arguments["cert_key"] = settings.key
        if settings.user:
            self._arguments["user"] = settings.user
        self._password = settings.password
        self._files = tuple(path for name in ("ca_cert", "cert_cert", "cert_key")
                            if (path := self._arguments.get(name)))
        self._read_files: object = None  # state of the files when the client was made
        self._login = threading.Lock()  # held while a client is made
        self._lock = threading.Lock()  # guards the client and the recorded state of its files
        self._client: Any = None

    def call(self, call: Callable[[Any, float], T], seconds: float, *, probe: bytes) -> T:
        """Run `call` with the client; log in again once if the token is refused.

        `probe`: first read this key to make sure that somebody answers; b"": do not.
        """
        with deadline.limit(seconds):
            try:
                return self._attempt(call, seconds, probe=probe)
            except (NotReadyError, grpc.RpcError) as error:
                sent = not isinstance(error, NotReadyError) and not not_sent(error)
                if sent or not self._forget_old_files():
                    raise
            return self._attempt(call, seconds, probe=probe)

    def _attempt(self, call: Callable[[Any, float], T], seconds: float, *, probe: bytes) -> T:
        client = self._ready(seconds, probe=probe)
        try:
            return call(client, deadline.remaining_s(seconds))
        except ValueError:
            if self._client is client:
                raise
            # Another thread has just closed the connection to log in again: nothing was sent.
        except grpc.RpcError as error:
            if not _token_refused(error):
                raise
            self._drop(client)
        client = self._ready(seconds, probe=b"")
        return call(client, deadline.remaining_s(seconds))

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        self._drop(self._client)

    def _ready(self, seconds: float, *, probe: bytes) -> Any:
        try:
            client = self._get(deadline.remaining_s(seconds))
            if probe:
                client.kvstub.Range(rpc.RangeRequest(key=probe, serializable=True),
                                    deadline.remaining_s(seconds), metadata=client.metadata)
        except grpc.RpcError as error:
            if not _token_refused(error):  # the call itself will be refused, and then logs in again
                raise NotReadyError(error) from None
        return client

    def _get(self, seconds: float) -> Any:
        with self._lock:
            if self._client is not None:
                return self._client
        # One thread logs in; the others wait for it, each with its own deadline.  Otherwise
        # they would fail one after the other while an etcd is frozen.
        if not self._login.acquire(timeout=deadline.remaining_s(seconds)):
            raise NotReadyError("no answer to a login in time")
        try:
            with self._lock:
                if self._client is not None:
                    return self._client
            files = self._state_of_files()
            made = self._connect(deadline.remaining_s(seconds))
            with self._lock:
                self._client, self._read_files = made, files
            return made
        finally:
            self._login.release()

    def _connect(self, seconds: float) -> Any:
        try:
            if "user" in self._arguments:
                self._arguments["password"] = (
                    self._password() if callable(self._password) else self._password)
            # The constructor logs in, and makes no other call.
            return etcd3.Etcd3Client(**self._arguments, timeout=seconds)
        except OSError as error:
            raise StoreUnavailable(f"cannot read etcd's TLS files: {error}; correct "
                                   "them, no restart is needed") from None
        except SettingsError as error:
            raise StoreUnavailable(
                f"cannot log in to etcd: {error}; correct it, no restart is needed"
            ) from None

    def _state_of_files(self) -> object:
        try:
            stats = [os.stat(path) for path in self._files]
        except OSError:
            return None
        return [(s.st_ino, s.st_mtime_ns, s.st_size) for s in stats]

    def _forget_old_files(self) -> bool:
        """Tell whether the files have changed since the client was made; it is then remade."""
        with self._lock:
            if self._client is None or self._read_files == self._state_of_files():
                return False
            # Not closed: what works with the old files (a watch, for example) goes on.
            self._client = None
            return True

    def _drop(self, client: Any) -> None:
        with self._lock:
            if client is None or self._client is not client:
                return
            self._client = None
        client.close()


def _token_refused(error: Any) -> bool:
    details = error.details() or ""
    return error.code() is _Code.UNAUTHENTICATED or (
        error.code() is _Code.INVALID_ARGUMENT
        and ("token" in details or "auth store is old" in details))


def not_sent(error: Any) -> bool:
    """Tell whether the server certainly did not act: connection refused, or refused by etcd."""
    code, details = error.code(), (error.details() or "").lower()
    if code is _Code.UNAVAILABLE:
        return "failed to connect" in details or "connection refused" in details
    return code in (_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED, _Code.INVALID_ARGUMENT,
                    _Code.RESOURCE_EXHAUSTED, _Code.FAILED_PRECONDITION, _Code.UNIMPLEMENTED)


def lease_gone(error: Any) -> bool:
    """Tell whether etcd refused a write because it has no such lease."""
    return error.code() is _Code.NOT_FOUND and "lease not found" in (error.details() or "")


def error_text(error: Any) -> str:
    """Return in one line how a call failed."""
    if error.code() is _Code.DEADLINE_EXCEEDED:
        return "no answer in time"
    return said(error.details() or error.code().name)
