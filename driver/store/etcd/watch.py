"""Runs one gRPC stream of watches to etcd; fails as soon as the stream is not alive.

It lists nothing: after WatchLost the feeds resume from where they were.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import grpc

from driver.store.etcd.connection import rpc
from driver.store.kv.protocol import Change, Moment, News, WatchLost
from driver.store.kv.transaction import prefix_end

PROBE_S = 5.0  # silence before the stream is probed, and the time it has to answer
PROBE_KEY = b"\0slim-probe"  # below the watched prefix, so that a user who may watch may probe
PROBE: Final = 0  # the number that no watch has


class EtcdStream:
    """The Stream of store/kv.  gRPC's sender thread waits in `_sent` and checks deadlines."""

    def __init__(self, stub: Any, metadata: Sequence[tuple[str, str]], key: str,
                 open_s: float) -> None:
        """Open the stream; wait up to `open_s` for etcd's first answer, else grpc.RpcError."""
        self._probe_key = key.encode() + PROBE_KEY
        self._open_s = open_s
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._numbers = itertools.count(PROBE + 1)
        # etcd confirms watches in the order of the requests, with ids of its own.
        self._unconfirmed: deque[int] = deque()
        self._numbers_of: dict[int, int] = {}  # our numbers, by etcd's id
        self._ids: dict[int, int] = {}  # etcd's ids, by our number; confirmed watches only
        self._unwanted: set[int] = set()  # cancelled before etcd confirmed them
        self._closed = self._silent = False
        self._heard_s = float("-inf")
        with self._lock:
            self._call = stub.Watch(self._sent(), metadata=tuple(metadata))
        try:
            first = self._answer()
            if first.canceled:
                raise RefusedError(first.cancel_reason)
        except grpc.RpcError:
            self.close()
            raise
        self._confirmed(first)
        self.opened = Moment(first.header.cluster_id, first.header.revision)

    def watch(self, prefix: str, from_revision: int, *, removals: bool = False) -> int:
        """See Stream."""
        number = next(self._numbers)
        self._create(number, key=prefix.encode(), range_end=prefix_end(prefix),
                     start_revision=from_revision, progress_notify=True,
                     filters=[rpc.WatchCreateRequest.NOPUT] if removals else [])
        return number

    def cancel(self, watch: int) -> None:
        """See Stream."""
        with self._lock:
            etcd_id = self._ids.pop(watch, None)
            if etcd_id is not None:
                del self._numbers_of[etcd_id]
                self._end(etcd_id)
            elif watch in self._unconfirmed:
                self._unwanted.add(watch)

    def next(self) -> News | None:
        """See Stream."""
        while True:
            try:
                answer = self._answer()
                if self._closed:
                    return None
                news = self._confirmed(answer) if answer.created else self._told(answer)
            except grpc.RpcError as error:
                if self._closed:
                    return None
                self.close()
                raise WatchLost(error.details() or error.code().name) from None
            if news is not None:
                return news

    def heard_s(self) -> float:
        """See Stream."""
        return self._heard_s

    def close(self) -> None:
        """See Stream."""
        self._closed = True
        self._requests.put(None)
        self._call.cancel()

    def _answer(self) -> Any:
        try:
            answer = next(self._call)
        except StopIteration:
            raise _StreamError("the stream was ended by etcd") from None
        except grpc.RpcError:
            if self._silent:
                raise _StreamError("it was silent for too long") from None
            raise
        self._heard_s = time.monotonic()
        return answer

    def _confirmed(self, answer: Any) -> News | None:
        with self._lock:
            number = self._unconfirmed.popleft()
            wanted = number != PROBE and number not in self._unwanted
            self._unwanted.discard(number)
            if answer.canceled:  # refused; this answers a probe, too
                return News(number, ended=answer.cancel_reason or "refused") if wanted else None
            if wanted:
                self._numbers_of[answer.watch_id] = number
                self._ids[number] = answer.watch_id
            else:
                self._end(answer.watch_id)
        return None

    def _told(self, answer: Any) -> News | None:
        with self._lock:
            number = self._numbers_of.get(answer.watch_id)
            if number is not None and answer.canceled:
                del self._numbers_of[answer.watch_id], self._ids[number]
                # etcd 3.4 repeats it every 0.1 s until it is asked to end the watch.
                self._end(answer.watch_id)
        if number is None:
            return None  # of a cancelled watch
        if answer.canceled:
            return News(number, compacted=answer.compact_revision > 0, ended=(
                f"{answer.cancel_reason or 'cancelled by etcd'}"
                f" (compacted up to {answer.compact_revision})"))
        if answer.events:
            # Not the header's revision: more changes may come before it.
            changes = [_change(event) for event in answer.events]
            return News(number, changes[-1].mod_revision, changes)
        return News(number, answer.header.revision)

    def _create(self, number: int, **what: Any) -> None:
        request = rpc.WatchRequest(create_request=rpc.WatchCreateRequest(**what))
        with self._lock:
            self._unconfirmed.append(number)
            self._requests.put(request)

    def _end(self, etcd_id: int) -> None:
        self._requests.put(rpc.WatchRequest(
            cancel_request=rpc.WatchCancelRequest(watch_id=etcd_id)))

    def _probe(self) -> None:
        # The stubs are older than progress requests.  etcd confirms another watch immediately,
        # which proves the same.
        self._create(PROBE, key=self._probe_key)

    def _sent(self) -> Iterator[Any]:
        """Yield requests in order, and a probe after silence; give up if that gets no answer."""
        probed_s, patience_s = time.monotonic(), self._open_s
        self._probe()
        while True:
            now_s = time.monotonic()
            if self._heard_s < probed_s:
                due_s = probed_s + patience_s
                if now_s >= due_s:
                    return self._give_up()
            else:
                due_s = self._heard_s + PROBE_S
                if now_s >= due_s:
                    probed_s, patience_s = now_s, PROBE_S
                    self._probe()
                    continue
            try:
                request = self._requests.get(timeout=due_s - now_s)
            except queue.Empty:
                # This process was stopped: etcd may have had more news than it buffers for a
                # stream that nobody reads.
                if time.monotonic() >= due_s + PROBE_S:
                    return self._give_up()
                continue
            if request is None:
                return None
            yield request

    def _give_up(self) -> None:
        self._silent = True
        with self._lock:
            self._call.cancel()


class _StreamError(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """The end of a stream that gRPC itself does not report as an error."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def code(self) -> Any:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._text


class RefusedError(_StreamError):
    """etcd does not let this user watch: its login has expired, or its role lacks the right."""

    def code(self) -> Any:
        return (grpc.StatusCode.UNAUTHENTICATED if "token" in self._text
                else grpc.StatusCode.PERMISSION_DENIED)


def _change(event: Any) -> Change:
    removed = event.type == 1  # mvccpb.Event.DELETE
    return Change(event.kv.key.decode(), None if removed else bytes(event.kv.value),
                  event.kv.mod_revision)
