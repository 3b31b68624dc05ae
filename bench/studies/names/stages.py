"""Notes when Docker says that a container has started, and when etcd has its names."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from bench.studies.names.hosts import WAIT_S, Pair
from driver.process.unix_http import UnixConnection

FILTERS = "/events?filters=%7B%22event%22%3A%5B%22start%22%5D%7D"  # {"event":["start"]}
FOREVER_S = 86400.0
LATE_S = 1.0
RETURNED = "Docker's event to the command's return"
RECORDED = "Docker's event to the record in etcd"
FOUND = "record in etcd to the other host"


class Stages:
    """Follows Docker's events of the first host, and all records; context manager."""

    def __init__(self, pair: Pair) -> None:
        self.ms: dict[str, list[float]] = {RETURNED: [], RECORDED: [], FOUND: []}
        self._started_s = self._recorded_s = 0.0  # the last
        lab = pair.lab
        self._events = UnixConnection(f"{pair.here.folder}/docker.sock", FOREVER_S)
        self._events.request("GET", FILTERS)
        self._socket = self._events.sock
        self._etcdctl = subprocess.Popen(
            ["ip", "netns", "exec", f"{lab.name}-fab", "etcdctl", "--endpoints", lab.etcd_url,
             "watch", "--prefix", "/"], env={**lab.env, "ETCDCTL_API": "3"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self._etcdctl.stdout is not None
        self._threads = [
            self._follow(self._events.getresponse(), self._start),
            self._follow(self._etcdctl.stdout, self._record)]

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._etcdctl.kill()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the thread that reads
        for thread in self._threads:
            thread.join(WAIT_S)
        self._events.close()
        self._etcdctl.communicate()

    def note(self, returned_s: float, found_s: float) -> None:
        """A container's name is found now; docker has returned before, or after."""
        # etcdctl may tell it later than the other host's driver does.
        deadline_s = time.monotonic() + LATE_S
        while self._recorded_s < self._started_s and time.monotonic() < deadline_s:
            time.sleep(0.005)
        self.ms[RETURNED].append((returned_s - self._started_s) * 1000)
        if self._recorded_s >= self._started_s:
            self.ms[RECORDED].append((self._recorded_s - self._started_s) * 1000)
            self.ms[FOUND].append((found_s - self._recorded_s) * 1000)

    @staticmethod
    def _follow(lines: Iterable[str | bytes], take: Callable[[str | bytes], None]
                ) -> threading.Thread:
        def read() -> None:
            with contextlib.suppress(OSError, ValueError):  # the end
                for line in lines:
                    take(line)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def _start(self, line: str | bytes) -> None:
        # Docker's moments are of the wall clock.
        self._started_s = json.loads(line)["timeNano"] / 1e9 - time.time() + time.monotonic()

    def _record(self, line: str | bytes) -> None:
        now_s = time.monotonic()
        with contextlib.suppress(ValueError):  # keys are lines, too
            value = json.loads(line)
            if isinstance(value, dict) and value.get("names"):
                self._recorded_s = now_s
