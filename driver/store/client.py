"""Owns the connections to etcd (python-etcd3): failover, TLS, login, deadlines on every call.

It must not know keys or records.  etcd3's own watch and lease threads die silently, so only
its connection, stubs and messages are used here; watch.py has the watch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

# etcd3 0.12.0 has code generated for protobuf 3: only the pure Python runtime still takes it.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # what that generated code calls
    import etcd3
    import etcd3.etcdrpc as rpc

import grpc

from driver import deadline
from driver.errors import SettingsError, StoreUnavailable
from driver.store.kv import (
    Compare,
    Entry,
    Lease,
    Listing,
    Op,
    OutcomeUnknown,
    Put,
    Unchanged,
    Watch,
    prefix_end,
)
from driver.store.watch import StreamWatch

CALL_S = 2.2  # for one call, all endpoints together; a commit and its read-back: 4.4 < 5
PAGE = 1000  # entries in one answer; about 0.4 MB, 30 ms to decode in pure Python
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"

CHANNEL_OPTIONS = (
    # A peer that is silent for 5 + 5 s is dead.  etcd allows a ping each 5 s (its
    # --grpc-keepalive-min-time) and none without a call under way.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),  # no limit: a watch may be silent for hours
    # After an outage the next try comes within a second, not within two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a new login starts with a new connection
    ("grpc.enable_http_proxy", 0),
)

T = TypeVar("T")
_Code = grpc.StatusCode


@dataclass(frozen=True)
class EtcdSettings:
    """Where etcd is and how to speak to it; paths of PEM files, empty: not used."""

    endpoints: tuple[str, ...]  # URLs, http:// or https://, with port
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password: str = ""


class EtcdKeyValue:
    """driver.store.kv.KeyValue over python-etcd3.  Thread-safe.  Connects at the first call."""

    def __init__(self, settings: EtcdSettings, call_s: float = CALL_S) -> None:
        """Check `settings`; error: SettingsError."""
        if not settings.endpoints:
            raise SettingsError("etcd: no endpoint given")
        if bool(settings.user) != bool(settings.password):
            raise SettingsError("etcd: user and password are given both or not at all")
        if bool(settings.cert) != bool(settings.key):
            raise SettingsError("etcd: certificate and key are given both or not at all")
        self._connections = [_Connection(url, settings) for url in settings.endpoints]
        self._call_s = call_s
        self._lock = threading.Lock()
        self._preferred = 0  # the endpoint that answered last

    def close(self) -> None:
        """Close all connections; calls and watches under way fail."""
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> EtcdKeyValue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> Entry | None:
        """See KeyValue."""
        answer = self._read("read", lambda c, s: c.kvstub.Range(
            rpc.RangeRequest(key=key.encode()), s, metadata=c.metadata))
        return _entry(answer.kvs[0]) if answer.kvs else None

    def range(self, prefix: str, *, start: str = "", stop: str = "", limit: int = 0,
              keys_only: bool = False) -> Listing:
        """See KeyValue; long lists come in pages, all as of the first one's revision."""
        request = _range_request(prefix, start, stop)
        request.keys_only = keys_only
        entries: list[Entry] = []
        while True:
            request.limit = min(PAGE, limit - len(entries)) if limit else PAGE
            answer = self._read("list", lambda c, s: c.kvstub.Range(
                request, s, metadata=c.metadata))
            entries.extend(_entry(kv) for kv in answer.kvs)
            if not request.revision:
                request.revision = answer.header.revision
            if not answer.more or (limit and len(entries) >= limit):
                return Listing(tuple(entries), request.revision, answer.more)
            request.key = answer.kvs[-1].key + b"\0"

    def count(self, prefix: str, *, start: str = "", stop: str = "") -> int:
        """See KeyValue."""
        request = _range_request(prefix, start, stop)
        request.count_only = True
        answer = self._read("count", lambda c, s: c.kvstub.Range(request, s, metadata=c.metadata))
        return int(answer.count)

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> bool:
        """See KeyValue."""
        request = rpc.TxnRequest(compare=[_compare(c) for c in compares],
                                 success=[_operation(op) for op in ops])
        answer = self._write("write", lambda c, s: c.kvstub.Txn(request, s, metadata=c.metadata))
        return bool(answer.succeeded)

    def watch(self, prefix: str, from_revision: int) -> Watch:
        """See KeyValue."""
        request = rpc.WatchRequest(create_request=rpc.WatchCreateRequest(
            key=prefix.encode(), range_end=prefix_end(prefix), start_revision=from_revision))
        # Asked of a member that lost its leader, etcd ends the watch instead of going silent.
        return self._read("watch", lambda c, s: StreamWatch(
            rpc.WatchStub(c.channel), request, (*(c.metadata or ()), ("hasleader", "true")), s))

    def lease(self, ttl_s: int) -> Lease:
        """See KeyValue."""
        # An unanswered grant leaves at worst a lease that nobody keeps alive.
        answer = self._read("grant a lease", lambda c, s: c.leasestub.LeaseGrant(
            rpc.LeaseGrantRequest(TTL=ttl_s), s, metadata=c.metadata))
        return _EtcdLease(self, answer.ID)

    def keep_alive(self, lease_id: int) -> bool:
        """Renew a lease once; False if it is gone."""
        def renew(client: Any, seconds: float) -> bool:
            request = rpc.LeaseKeepAliveRequest(ID=lease_id)
            for answer in client.leasestub.LeaseKeepAlive(
                    iter([request]), seconds, metadata=client.metadata):
                return bool(answer.TTL > 0)
            return False

        return self._read("renew the lease", renew)

    def revoke(self, lease_id: int) -> None:
        """End a lease; one that is gone is fine."""
        def end(client: Any, seconds: float) -> None:
            try:
                client.leasestub.LeaseRevoke(
                    rpc.LeaseRevokeRequest(ID=lease_id), seconds, metadata=client.metadata)
            except grpc.RpcError as error:
                if error.code() is not _Code.NOT_FOUND:
                    raise

        self._read("revoke the lease", end)

    def compact(self, revision: int) -> None:
        """Drop the history before `revision` (operations and tests)."""
        self._read("compact", lambda c, s: c.kvstub.Compact(
            rpc.CompactionRequest(revision=revision, physical=True), s, metadata=c.metadata))

    def _read(self, what: str, call: Callable[[Any, float], T]) -> T:
        return self._call(what, call, repeatable=True)

    def _write(self, what: str, call: Callable[[Any, float], T]) -> T:
        return self._call(what, call, repeatable=False)

    def _call(self, what: str, call: Callable[[Any, float], T], *, repeatable: bool) -> T:
        """Try the endpoints in turn, within one deadline for all.

        What is not repeatable goes to the next endpoint only if it was certainly not sent.
        """
        with deadline.limit(self._call_s):
            with self._lock:
                first = self._preferred
            count = len(self._connections)
            failures: list[str] = []
            for attempt in range(count):
                index = (first + attempt) % count
                connection = self._connections[index]
                # Half of what is left for each, so that a silent endpoint leaves time.
                left_s = deadline.remaining_s(self._call_s)
                seconds = left_s if attempt == count - 1 else left_s / 2
                if seconds <= 0.01:
                    break
                try:
                    answer = connection.call(call, seconds, probe=not repeatable and count > 1)
                except grpc.RpcError as error:
                    failures.append(f"{connection.url}: {_text(error)}")
                    if repeatable or _not_sent(error):
                        continue
                    with self._lock:
                        self._preferred = (index + 1) % count
                    raise OutcomeUnknown(
                        f"etcd did not confirm a {what} ({failures[-1]})") from None
                with self._lock:
                    self._preferred = index
                return answer
            raise StoreUnavailable(
                f"cannot {what} etcd ({'; '.join(failures) or 'no time left'}); "
                "running connections are not affected, try again when etcd is back")


class _EtcdLease:
    def __init__(self, kv: EtcdKeyValue, lease_id: int) -> None:
        self._kv = kv
        self.id = lease_id

    def keep_alive(self) -> bool:
        return self._kv.keep_alive(self.id)

    def revoke(self) -> None:
        self._kv.revoke(self.id)


class _Connection:
    """One endpoint's etcd3 client, made when first needed and again when its login expired."""

    def __init__(self, url: str, settings: EtcdSettings) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"etcd endpoint {url!r}: want http://HOST:PORT or https://HOST:PORT")
        self.url = f"{parts.scheme}://{parts.netloc}"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._arguments: dict[str, Any] = {
            "host": host, "port": parts.port or 2379, "grpc_options": CHANNEL_OPTIONS}
        if parts.scheme == "https":
            self._arguments["ca_cert"] = settings.ca or SYSTEM_CA
            if settings.cert:
                self._arguments["cert_cert"] = settings.cert
                self._arguments["cert_key"] = settings.key
        if settings.user:
            self._arguments["user"] = settings.user
            self._arguments["password"] = settings.password
        self._lock = threading.Lock()
        self._client: Any = None

    def call(self, call: Callable[[Any, float], T], seconds: float, *, probe: bool) -> T:
        """Run `call` with the client; log in again once if the token is refused.

        `probe`: make sure first, by a harmless call, that somebody is there.
        """
        with deadline.limit(seconds):
            client = self._get(seconds)
            try:
                if probe:
                    client.kvstub.Range(rpc.RangeRequest(key=b"\0", serializable=True),
                                        seconds, metadata=client.metadata)
                return call(client, deadline.remaining_s(seconds))
            except grpc.RpcError as error:
                if not _token_refused(error):
                    raise
                self._drop(client)
                return call(self._get(seconds), deadline.remaining_s(seconds))

    def close(self) -> None:
        self._drop(self._client)

    def _get(self, seconds: float) -> Any:
        with self._lock:
            if self._client is None:
                try:
                    # The constructor logs in; that is the one call it makes.
                    self._client = etcd3.Etcd3Client(**self._arguments, timeout=seconds)
                except OSError as error:
                    raise StoreUnavailable(f"cannot read etcd's TLS files: {error}") from None
            return self._client

    def _drop(self, client: Any) -> None:
        with self._lock:
            if client is None or self._client is not client:
                return
            self._client = None
        client.close()


def _token_refused(error: Any) -> bool:
    return error.code() is _Code.UNAUTHENTICATED or (
        error.code() is _Code.INVALID_ARGUMENT and "token" in (error.details() or ""))


def _not_sent(error: Any) -> bool:
    """Whether the server certainly did not act: refused connection, or refused by etcd."""
    code, details = error.code(), (error.details() or "").lower()
    if code is _Code.UNAVAILABLE:
        return "failed to connect" in details or "connection refused" in details
    return code in (_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED, _Code.INVALID_ARGUMENT,
                    _Code.RESOURCE_EXHAUSTED, _Code.FAILED_PRECONDITION, _Code.UNIMPLEMENTED)


def _text(error: Any) -> str:
    if error.code() is _Code.DEADLINE_EXCEEDED:
        return "no answer in time"
    return f"{error.details() or error.code().name}".split("\n", 1)[0][:200]


def _entry(kv: Any) -> Entry:
    return Entry(kv.key.decode(), bytes(kv.value), kv.mod_revision)


def _range_request(prefix: str, start: str, stop: str) -> Any:
    return rpc.RangeRequest(
        key=max(prefix, start).encode(),
        range_end=min(prefix_end(prefix), stop.encode()) if stop else prefix_end(prefix))


def _compare(compare: Compare) -> Any:
    if isinstance(compare, Unchanged):
        return rpc.Compare(key=compare.key.encode(), target=rpc.Compare.MOD,
                           result=rpc.Compare.EQUAL, mod_revision=compare.mod_revision)
    return rpc.Compare(key=compare.key.encode(), target=rpc.Compare.VALUE,
                       result=rpc.Compare.EQUAL, value=compare.value)


def _operation(op: Op) -> Any:
    if isinstance(op, Put):
        return rpc.RequestOp(request_put=rpc.PutRequest(
            key=op.key.encode(), value=op.value, lease=op.lease_id))
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=op.key.encode()))
