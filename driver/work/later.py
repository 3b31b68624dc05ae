"""Runs keyed jobs in threads, at once or later; at most one job waits per key."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")

log = logging.getLogger(__name__)


class Later(Generic[K]):
    """Calls `run(key)` from its own threads, never before the requested time."""

    def __init__(self, run: Callable[[K], None], *, threads: int, name: str,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._run = run
        self._clock = clock
        self._heap: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}  # keys that wait -> until when
        self._count = 0  # keeps equal times in order
        self._changed = threading.Condition()
        self._stopped = False
        self._draining = False
        self._threads = [threading.Thread(target=self._work, name=f"{name} {number}", daemon=True)
                         for number in range(threads)]

    def start(self) -> None:
        """Start running jobs."""
        for thread in self._threads:
            thread.start()

    def stop(self, *, drain: bool = False) -> None:
        """Drop the waiting jobs and wait for the running ones to finish.

        drain: run the waiting jobs first, without waiting for their time.
        """
        with self._changed:
            self._stopped = True
            self._draining = drain
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join()

    def submit(self, key: K, delay_s: float = 0.0) -> None:
        """Run the key's job in `delay_s` seconds; the earlier of two submissions counts."""
        due = self._clock() + delay_s
        with self._changed:
            if self._stopped or self._due.get(key, due + 1) <= due:
                return
            self._due[key] = due
            self._count += 1
            heapq.heappush(self._heap, (due, self._count, key))
            self._changed.notify()

    def cancel(self, key: K) -> None:
        """Drop the key's job if it is waiting; a running job is left alone."""
        with self._changed:
            self._due.pop(key, None)

    def _work(self) -> None:
        while True:
            with self._changed:
                taken = self._take()
            if taken is None:
                return
            try:
                self._run(taken[0])
            except Exception:  # the thread must outlive a job's bug
                log.exception("job %s failed", taken[0])

    def _take(self) -> tuple[K] | None:
        while not self._stopped or (self._draining and self._heap):
            now = self._clock()
            if self._heap and (self._stopped or self._heap[0][0] <= now):
                due, _, key = heapq.heappop(self._heap)
                if self._due.get(key) == due:  # else cancelled, or moved to an earlier time
                    del self._due[key]
                    return (key,)
            else:
                self._changed.wait(self._heap[0][0] - now if self._heap else None)
        return None
