"""Owns one watch stream to etcd: changes in order, and an error as soon as it is not alive.

It must not know keys, nor list anything: the feed lists again after WatchLost.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from driver.store.kv import Change, WatchLost

PROBE_S = 5.0  # silence after which the stream has to prove that it is alive, and time for it
PROBE_KEY = b"\0slim-probe"  # below what is watched, so that whoever may watch may probe


class StreamWatch:
    """driver.store.kv.Watch over one gRPC stream of its own."""

    def __init__(self, stub: Any, request: Any, metadata: Sequence[tuple[str, str]],
                 open_s: float) -> None:
        """Open the stream; wait up to `open_s` for etcd's confirmation (else grpc.RpcError)."""
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._request_type = type(request)
        self._probe_key = request.create_request.key + PROBE_KEY
        self._closed = threading.Event()
        self._requests.put(request)
        self._call = stub.Watch(self._sent(), metadata=tuple(metadata))
        self._reader = threading.Thread(target=self._read, name="slim-etcd-watch", daemon=True)
        self._reader.start()
        try:
            first = self._answers.get(timeout=open_s)
        except queue.Empty:
            self.close()
            raise NotOpenedError from None
        if isinstance(first, grpc.RpcError):
            self.close()
            raise first
        self._watch_id = first.watch_id
        # A refused or compacted watch says so in its first answer: let `next` tell it.
        self._first = first

    def next(self) -> Sequence[Change] | None:
        """See Watch."""
        answer, self._first = self._first, None
        probing = False
        while True:
            if self._closed.is_set():
                return None
            if answer is None:
                try:
                    answer = self._answers.get(timeout=PROBE_S)
                except queue.Empty:
                    if probing:
                        raise self._lost("etcd is silent") from None
                    probing = True
                    self._probe()
                    continue
            if self._closed.is_set():
                return None
            if isinstance(answer, grpc.RpcError):
                raise self._lost(f"watch ended: {answer.details() or answer.code().name}")
            probing = False
            if answer.watch_id == self._watch_id and answer.canceled:
                raise self._lost(f"watch cancelled by etcd: {answer.cancel_reason}"
                                 f" (compacted up to {answer.compact_revision})")
            if answer.watch_id == self._watch_id and answer.events:
                return [_change(event) for event in answer.events]
            if answer.created and answer.watch_id != self._watch_id:
                # The answer to a probe; the probe's watch has done its service.
                cancel = self._request_type()
                cancel.cancel_request.watch_id = answer.watch_id
                self._requests.put(cancel)
            answer = None

    def close(self) -> None:
        """End the stream; `next` returns None."""
        self._closed.set()
        self._requests.put(None)
        self._call.cancel()
        self._answers.put(None)

    def _lost(self, text: str) -> WatchLost:
        self.close()
        return WatchLost(text)

    def _probe(self) -> None:
        # The stubs are older than progress requests.  A second watch on the same stream is
        # confirmed by etcd at once, which proves as much.
        probe = self._request_type()
        probe.create_request.key = self._probe_key
        self._requests.put(probe)

    def _sent(self) -> Iterator[Any]:
        while (request := self._requests.get()) is not None:
            yield request

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._answers.put(answer)
            self._answers.put(EndedError())
        except grpc.RpcError as error:
            self._answers.put(error)


class _StreamError(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """An end of a stream that gRPC itself does not call an error."""

    text = ""

    def code(self) -> Any:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self.text


class NotOpenedError(_StreamError):
    """etcd did not confirm the watch in time."""

    text = "the watch was not confirmed in time"


class EndedError(_StreamError):
    """etcd ended the stream."""

    text = "the stream was ended by etcd"


def _change(event: Any) -> Change:
    removed = event.type == 1  # mvccpb.Event.DELETE
    return Change(event.kv.key.decode(), None if removed else bytes(event.kv.value),
                  event.kv.mod_revision)
