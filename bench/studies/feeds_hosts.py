"""Plays many hosts that follow many networks in etcd; each has its connection and its feeds.

It is a process that reads commands from standard input and answers each with a line of JSON; see
`main`.  The feeds are the driver's own; their listeners only note marks.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from driver.model import NetworkId, Vni
from driver.store.etcd.client import EtcdKeyValue, EtcdSettings
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys
from driver.store.kv.protocol import Change, Entry, Listing

WAIT_S = 1800.0


def mark(network: int) -> str:
    """Return the key whose value says that a host is in step with a network."""
    return keys.endpoints(Vni(network)) + "mark"


def followed(networks: int) -> list[str]:
    """Return the prefixes that a driver with so many networks follows."""
    return [keys.HOSTS, *(prefix for number in range(1, networks + 1) for prefix in (
        keys.endpoints(Vni(number)), keys.services(NetworkId(f"{number:064x}"))))]


class Tally:
    """Counts the feeds of this process that have seen a mark, and notes when the last one did."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._counts: dict[bytes, int] = {}
        self.lists = 0

    def heard(self, value: bytes) -> None:
        """Count one more feed."""
        with self._changed:
            self._counts[value] = self._counts.get(value, 0) + 1
            self._changed.notify_all()

    def listed(self) -> None:
        """Count one more list."""
        with self._changed:
            self.lists += 1
            self._changed.notify_all()

    def wait(self, value: bytes, count: int) -> float:
        """Return the moment (CLOCK_MONOTONIC) at which so many feeds had seen a mark."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._counts.get(value, 0) >= count, WAIT_S):
                raise TimeoutError(f"{self._counts.get(value, 0)} of {count} in step")
            return time.monotonic()

    def wait_lists(self, count: int) -> None:
        """Wait until so many lists have come."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.lists >= count, WAIT_S):
                raise TimeoutError(f"{self.lists} of {count} listed")


class Marks:
    """The FeedListener of one host and prefix."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._last = b""

    def listed(self, entries: Sequence[Entry], revision: int) -> None:  # noqa: ARG002
        """See FeedListener."""
        self._tally.listed()
        for entry in entries:
            self._look(entry.key, entry.value)

    def changed(self, changes: Sequence[Change]) -> None:
        """See FeedListener."""
        for change in changes:
            self._look(change.key, change.value)

    def _look(self, key: str, value: bytes | None) -> None:
        if value and value != self._last and key.endswith("/mark"):
            self._last = value
            self._tally.heard(value)


class Primed(EtcdKeyValue):
    """Asks etcd only once for a list that many hosts of this process want.

    That ends when the lists themselves are measured.
    """

    lists: dict[str, Listing] | None = {}  # noqa: RUF012 - shared by the process

    def range(self, prefix: str, **others: Any) -> Listing:
        """See KeyValue."""
        if Primed.lists is None:
            return super().range(prefix, **others)
        if prefix not in Primed.lists:
            Primed.lists[prefix] = super().range(prefix, **others)
        return Primed.lists[prefix]


def usage() -> dict[str, float]:
    """Return this process's seconds of CPU, MB of memory and threads."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return {"cpu_s": spent.ru_utime + spent.ru_stime, "threads": threading.active_count(),
            "memory_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}


def main() -> None:
    """`URLS HOSTS NETWORKS` are the arguments.

    `follow`: begin, and answer when everything is listed.  `step VALUE`: answer with the moment
    at which all are in step.  `lists`: answer with the number of lists.  `usage`: see usage().
    """
    logging.disable(logging.WARNING)  # each host would log that etcd was restarted
    urls, hosts, networks = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
    tally, prefixes = Tally(), followed(networks)
    for line in sys.stdin:
        command, *rest = line.split()
        answer: Any = True
        if command == "follow":
            for number in range(hosts):
                turned = urls[number % len(urls):] + urls[:number % len(urls)]
                feeds = Feeds(Primed(EtcdSettings(tuple(turned))))
                for prefix in prefixes:
                    feeds.follow(prefix, Marks(tally))
                tally.wait_lists((number + 1) * len(prefixes))
            Primed.lists = None
        elif command == "step":
            answer = tally.wait(rest[0].encode(), hosts * networks)
        elif command == "lists":
            answer = tally.lists
        else:
            answer = usage()
        print(json.dumps(answer), flush=True)
    os._exit(0)  # without ending hundreds of streams one by one


if __name__ == "__main__":
    main()
