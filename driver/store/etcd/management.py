"""Asks etcd's members about themselves, over python-etcd3's stubs.

These are older than etcd 3.4: what they do not know is read from the answers' unknown fields, by
the numbers in etcd's rpc.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

import grpc
from google.protobuf.unknown_fields import UnknownFieldSet

from driver.errors import StoreUnavailable
from driver.store.etcd.advice import advice, told
from driver.store.etcd.connection import Connection, EtcdSettings, NotReadyError, error_text, rpc

CALL_S: Final = 2.5
_MEMBER_IS_LEARNER: Final = 5
_STATUS_BYTES_USED: Final = 9
_STATUS_IS_LEARNER: Final = 10


class OneMember:
    """One of etcd's members, by its client URL.  Errors of all methods: StoreUnavailable."""

    def __init__(self, url: str, settings: EtcdSettings) -> None:
        self.url = url
        self._connection = Connection(url, replace(settings, endpoints=(url,)))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def members(self) -> list[dict[str, Any]]:
        """Return the members as this one knows them: id, name, peer_urls, client_urls, is_learner.

        One that lags behind, or has been removed, may know an older list.
        """
        answer = self._call("list members", lambda client, seconds: rpc.ClusterStub(
            client.channel).MemberList(rpc.MemberListRequest(), seconds, metadata=client.metadata))
        return [{"id": each.ID, "name": each.name, "peer_urls": tuple(each.peerURLs),
                 "client_urls": tuple(each.clientURLs),
                 "is_learner": bool(_unknown(each, _MEMBER_IS_LEARNER))}
                for each in answer.members]

    def status(self) -> dict[str, Any]:
        """Return what the member says of itself, as in cluster.model.MemberHealth, and `id`."""
        answer = self._call("ask for its status", lambda client, seconds: rpc.MaintenanceStub(
            client.channel).Status(rpc.StatusRequest(), seconds, metadata=client.metadata))
        return {"id": answer.header.member_id, "version": answer.version,
                "bytes_allocated": answer.dbSize,
                "bytes_used": next(iter(_unknown(answer, _STATUS_BYTES_USED)), answer.dbSize),
                "leader": answer.leader,
                "is_learner": bool(_unknown(answer, _STATUS_IS_LEARNER))}

    def remove(self, member: int) -> None:
        """Remove a member; one that is gone is no error."""
        def ask(client: Any, seconds: float) -> None:
            try:
                rpc.ClusterStub(client.channel).MemberRemove(
                    rpc.MemberRemoveRequest(ID=member), seconds, metadata=client.metadata)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise

        self._call("remove a member", ask)

    def defragment(self, seconds: float) -> None:
        """Give unused space back; the member does nothing else meanwhile."""
        self._call("defragment", lambda client, left_s: rpc.MaintenanceStub(
            client.channel).Defragment(rpc.DefragmentRequest(), left_s, metadata=client.metadata),
            seconds)

    def snapshot(self, write: Callable[[bytes], object], seconds: float) -> None:
        """Write all that etcd has, as `etcdctl snapshot save` does: with its checksum at the end.

        What was written before an error is no snapshot.  Errors: those of `write`, too.
        """
        def ask(client: Any, left_s: float) -> None:
            for part in rpc.MaintenanceStub(client.channel).Snapshot(
                    rpc.SnapshotRequest(), left_s, metadata=client.metadata):
                write(part.blob)

        self._call("save a snapshot", ask, seconds)

    def _call(self, what: str, call: Any, seconds: float = CALL_S) -> Any:
        try:
            return self._connection.call(call, seconds, probe=b"")
        except (grpc.RpcError, NotReadyError) as error:
            text = str(error) if isinstance(error, NotReadyError) else error_text(error)
            failures = [(self.url, text)]
            raise StoreUnavailable(f"cannot {what} ({told(failures)}); {advice(failures)}"
                                   ) from None


def _unknown(message: Any, number: int) -> list[Any]:
    """Return the values of a field that the stubs do not know."""
    unknown: Iterable[Any] = UnknownFieldSet(message)  # type: ignore[assignment]
    return [each.data for each in unknown if each.field_number == number]
