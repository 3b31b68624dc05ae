"""Calls etcd: builds each request, fails over between endpoints, limits the time of every call.

connection.py makes the connections.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc

from driver.errors import SettingsError, StoreUnavailable
from driver.store.etcd.advice import Failure, advice, told
from driver.store.etcd.connection import (
    Connection,
    EtcdSettings,
    NotReadyError,
    error_text,
    lease_gone,
    not_sent,
    rpc,
)
from driver.store.etcd.endpoints import EndpointsFile
from driver.store.etcd.watch import EtcdStream
from driver.store.kv.protocol import (
    Change,
    Compare,
    Empty,
    Entry,
    Lease,
    LeaseGone,
    Listing,
    Moment,
    Op,
    OutcomeUnknown,
    Put,
    Stream,
    Unchanged,
)
from driver.store.kv.transaction import prefix_end
from driver.work import deadline
from driver.work.tally import Tally

CALL_S = 2.2  # for one call, over all endpoints; a commit and its read-back: 4.4 < 5
# Operations whose name in messages is more than a word; for the tally.
_OPERATIONS = {"grant a lease": "lease_grant", "renew the lease": "lease_renew",
               "look at the lease": "lease_look", "revoke the lease": "lease_revoke",
               "ask for alarms": "alarms"}
PAGE = 1000  # entries per answer: about 0.4 MB, 30 ms to decode in pure Python

T = TypeVar("T")

__all__ = ["EtcdKeyValue", "EtcdSettings"]


class EtcdKeyValue:
    """The KeyValue of store/kv over python-etcd3.  Thread-safe.  Connects at the first call."""

    def __init__(self, settings: EtcdSettings, call_s: float = CALL_S,
                 tally: Tally | None = None) -> None:
        """Check `settings`; error: SettingsError.

        tally: is told of each call, by operation and result (ok, error).
        """
        if not settings.endpoints:
            raise SettingsError("etcd: no endpoint given")
        if bool(settings.user) != bool(settings.password):
            raise SettingsError("etcd: user and password are given both or not at all")
        if bool(settings.cert) != bool(settings.key):
            raise SettingsError("etcd: certificate and key are given both or not at all")
        self._settings = settings
        self._connections = [Connection(url, settings) for url in settings.endpoints]
        self._endpoints = EndpointsFile(settings.endpoints_file)
        self._call_s = call_s
        self._tally = tally
        self._lock = threading.Lock()  # guards the list of connections and the preferred one
        self._preferred = self._connections[0]  # the one that answered last
        self.cluster_id = 0  # etcd's own id, from the last answer; a restored etcd has another

    def close(self) -> None:
        """Close all connections; calls and watches in progress fail."""
        for connection in self._current():
            connection.close()

    def __enter__(self) -> EtcdKeyValue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> Entry | None:
        """See KeyValue."""
        answer = self._read("read", lambda c, s: c.kvstub.Range(
            rpc.RangeRequest(key=key.encode()), s, metadata=c.metadata))
        self.cluster_id = answer.header.cluster_id
        return _entry(answer.kvs[0]) if answer.kvs else None

    def recall(self, key: str) -> Entry | None:  # noqa: ARG002
        """See KeyValue; this class remembers nothing."""
        return None

    def range(self, prefix: str, *, start: str = "", stop: str = "", limit: int = 0,
              keys_only: bool = False) -> Listing:
        """See KeyValue; long lists are read in pages, all at the first page's revision."""
        request = _range_request(prefix, start, stop)
        request.keys_only = keys_only
        entries: list[Entry] = []
        while True:
            request.limit = min(PAGE, limit - len(entries)) if limit else PAGE
            answer = self._read("list", lambda c, s: c.kvstub.Range(
                request, s, metadata=c.metadata))
            self.cluster_id = answer.header.cluster_id
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
        self.cluster_id = answer.header.cluster_id
        return int(answer.count)

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        """See KeyValue."""
        request = rpc.TxnRequest(compare=[_compare(c) for c in compares],
                                 success=[_operation(op) for op in ops])
        # A key that this user may read: only the keys of its own role are sure to be readable.
        key = next(iter((*ops, *compares))).key.encode()
        answer = self._call("write", lambda c, s: c.kvstub.Txn(request, s, metadata=c.metadata),
                            probe=key)
        self.cluster_id = answer.header.cluster_id
        return int(answer.header.revision) if answer.succeeded else 0

    def stream(self, key: str) -> Stream:
        """See WatchedKeyValue."""
        # Asks a member that lost its leader to end the stream instead of going silent.
        return self._read("watch", lambda c, s: EtcdStream(
            rpc.WatchStub(c.channel), (*(c.metadata or ()), ("hasleader", "true")), key, s))

    def now(self, key: str) -> Moment:
        """See WatchedKeyValue."""
        header = self._range(rpc.RangeRequest(key=key.encode(), keys_only=True)).header
        return Moment(header.cluster_id, header.revision)

    def remembers(self, change: Change) -> bool:
        """See WatchedKeyValue."""
        revision = change.mod_revision
        answer = self._range(rpc.RangeRequest(key=change.key.encode()))
        if answer.header.revision < revision:
            return False
        if not answer.kvs or answer.kvs[0].mod_revision > revision:
            answer = self._as_of(change.key, revision)  # it has changed since
            if answer is None:
                return True  # compacted
        if change.value is not None:
            return bool(answer.kvs) and _entry(answer.kvs[0]) == Entry(
                change.key, change.value, revision)
        if answer.kvs:
            return False
        before = self._as_of(change.key, revision - 1)
        return before is None or bool(before.kvs)

    def _as_of(self, key: str, revision: int) -> Any:
        """None: compacted."""
        return self._range(rpc.RangeRequest(key=key.encode(), revision=revision))

    def keeps(self, key: str, revision: int) -> bool:
        """See WatchedKeyValue."""
        return self._range(rpc.RangeRequest(
            key=key.encode(), revision=revision, keys_only=True)) is not None

    def lease(self, ttl_s: int) -> Lease:
        """See KeyValue."""
        # At worst, an unanswered grant leaves a lease that nobody keeps alive.
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

    def lease_left_s(self, lease_id: int) -> int:
        """See LeasedKeyValue."""
        answer = self._read("look at the lease", lambda c, s: c.leasestub.LeaseTimeToLive(
            rpc.LeaseTimeToLiveRequest(ID=lease_id), s, metadata=c.metadata))
        return int(answer.TTL)

    def revoke(self, lease_id: int) -> None:
        """Revoke a lease; one that is gone is no error."""
        def end(client: Any, seconds: float) -> None:
            try:
                client.leasestub.LeaseRevoke(
                    rpc.LeaseRevokeRequest(ID=lease_id), seconds, metadata=client.metadata)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise

        self._read("revoke the lease", end)

    def alarms(self) -> list[str]:
        """Return the names of the alarms that etcd has raised, each once.

        None if this user may not ask.
        """
        def ask(client: Any, seconds: float) -> list[str]:
            try:
                answer = rpc.MaintenanceStub(client.channel).Alarm(
                    rpc.AlarmRequest(action=rpc.AlarmRequest.GET), seconds,
                    metadata=client.metadata)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                    return []
                raise
            return sorted({rpc.AlarmType.Name(each.alarm) for each in answer.alarms})

        return self._read("ask for alarms", ask)

    def compact(self, revision: int) -> None:
        """Drop the history before `revision` (operations and tests)."""
        self._read("compact", lambda c, s: c.kvstub.Compact(
            rpc.CompactionRequest(revision=revision, physical=True), s, metadata=c.metadata))

    def _range(self, request: Any) -> Any:
        """Read one key; None: the revision asked for is compacted."""
        def ask(client: Any, seconds: float) -> Any:
            try:
                return client.kvstub.Range(request, seconds, metadata=client.metadata)
            except grpc.RpcError as error:
                if "revision has been compacted" in (error.details() or ""):
                    return None
                raise

        return self._read("read", ask)

    def _read(self, what: str, call: Callable[[Any, float], T]) -> T:
        return self._call(what, call)

    def _call(self, what: str, call: Callable[[Any, float], T], *, probe: bytes = b"") -> T:
        """Make a call, see `_attempt`, and have it counted."""
        begun_s, result = time.monotonic(), "error"
        try:
            answer = self._attempt(what, call, probe)
            result = "ok"
            return answer
        finally:
            if self._tally is not None:
                self._tally.add(time.monotonic() - begun_s, _OPERATIONS.get(what, what), result)

    def _attempt(self, what: str, call: Callable[[Any, float], T], probe: bytes) -> T:
        """Try the endpoints in turn, within one deadline for all.

        A call that must not be repeated has a `probe`, a key to read first: it goes to the next
        endpoint only if it was certainly not sent.
        """
        repeatable = not probe
        with deadline.limit(self._call_s):
            connections = self._current()
            count = len(connections)
            failures: list[Failure] = []
            for attempt, connection in enumerate(connections):
                # Half of the remaining time each, so that a silent endpoint leaves time for others.
                left_s = deadline.remaining_s(self._call_s)
                seconds = left_s if attempt == count - 1 else left_s / 2
                if seconds <= 0.01:
                    break
                try:
                    answer = connection.call(call, seconds, probe=probe if count > 1 else b"")
                except NotReadyError as error:
                    failures.append((connection.url, str(error)))
                    continue
                except grpc.RpcError as error:
                    failures.append((connection.url, error_text(error)))
                    if lease_gone(error):  # the other members would say the same
                        raise LeaseGone(f"etcd refuses a {what} ({told(failures[-1:])})") from None
                    if repeatable or not_sent(error):
                        continue
                    self._prefer(connections[(attempt + 1) % count])
                    raise OutcomeUnknown(
                        f"etcd did not confirm a {what} ({told(failures[-1:])}); running "
                        f"connections are not affected; {advice(failures)}") from None
                self._prefer(connection)
                return answer
            raise StoreUnavailable(
                f"etcd is not available, cannot {what} ({told(failures) or 'no time left'}); "
                f"running connections are not affected; {advice(failures)}")

    def _prefer(self, connection: Connection) -> None:
        with self._lock:
            self._preferred = connection

    def _current(self) -> list[Connection]:
        """Return the connections, the preferred one first; follow the file of endpoints.

        What went through a member that is no more ends when that member does.
        """
        with self._lock:
            urls = self._endpoints.changed()
            if urls:
                known = {connection.url: connection for connection in self._connections}
                self._connections = [known[url] if url in known else Connection(
                    url, self._settings) for url in urls]
            first = (self._connections.index(self._preferred)
                     if self._preferred in self._connections else 0)
            return self._connections[first:] + self._connections[:first]


class _EtcdLease:
    def __init__(self, kv: EtcdKeyValue, lease_id: int) -> None:
        self._kv = kv
        self.id = lease_id

    def keep_alive(self) -> bool:
        return self._kv.keep_alive(self.id)

    def revoke(self) -> None:
        self._kv.revoke(self.id)


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
    if isinstance(compare, Empty):  # etcd compares each existing key, or one that was never made
        return rpc.Compare(key=compare.key.encode(), range_end=compare.stop.encode(),
                           target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)
    return rpc.Compare(key=compare.key.encode(), target=rpc.Compare.VALUE,
                       result=rpc.Compare.EQUAL, value=compare.value)


def _operation(op: Op) -> Any:
    if isinstance(op, Put):
        return rpc.RequestOp(request_put=rpc.PutRequest(
            key=op.key.encode(), value=op.value, lease=op.lease_id))
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=op.key.encode()))
