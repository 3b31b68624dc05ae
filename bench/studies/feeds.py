"""Measures what etcd needs while many hosts follow many networks, at rest and after its restart.

    .venv/bin/python -m bench.studies.feeds [--hosts 500] [--networks 200] [--members 1]
        [--out FILE]

etcd is real, but without fsync.  A host is a driver's connection and feeds, many in a process
(bench/studies/feeds_hosts.py).  One more host has a process of its own, whose CPU and memory are
one driver's.  It writes bench/results/feeds.json.  All run on this machine, so the times include
the hosts' own work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.load.directory import BATCH
from bench.studies.feeds_hosts import mark
from driver.errors import StoreUnavailable
from driver.store.etcd.client import EtcdKeyValue
from driver.store.kv.protocol import Put
from tests.support.world.etcd import Etcd, EtcdCluster

RESULTS = Path(__file__).parents[1] / "results" / "feeds.json"
PER_PROCESS = 50  # hosts
WRITE_S = 120.0  # long, since a repeated write would notify all hosts again
# Longer than usual: members share two cores with all hosts.
PATIENT = ("--heartbeat-interval", "300", "--election-timeout", "3000")
COUNTS = {"requests": 'grpc_server_started_total{grpc_method="', "lists":
          'grpc_server_started_total{grpc_method="Range"',
          "streams": 'grpc_server_started_total{grpc_method="Watch"',
          "watch requests": 'grpc_server_msg_received_total{grpc_method="Watch"',
          "watch answers": 'grpc_server_msg_sent_total{grpc_method="Watch"',
          "cpu_s": "process_cpu_seconds_total"}


class Store:
    """An etcd of one member, or three; context manager."""

    def __init__(self, members: int) -> None:
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._cluster = EtcdCluster(folder, arguments=PATIENT) if members > 1 else None
        self.members = self._cluster.members if self._cluster else [Etcd(folder)]

    def __enter__(self) -> Store:
        self._stack.enter_context(self._cluster or self.members[0])
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def urls(self) -> str:
        return ",".join(member.url for member in self.members)

    def counts(self) -> dict[str, float]:
        """Return the sums over all members."""
        return {name: sum(member.metric(series) for member in self.members)
                for name, series in COUNTS.items()}

    def state(self) -> dict[str, float]:
        """Return the current state, summed over all members."""
        return {name: sum(member.metric(series) for member in self.members) / unit
                for name, series, unit in (
                    ("watches", "etcd_debugging_mvcc_watcher_total", 1),
                    ("open streams", "etcd_debugging_mvcc_watch_stream_total", 1),
                    ("memory_mb", "process_resident_memory_bytes", 1e6))}

    def restart(self) -> None:
        """Kill a member, start it again and wait until it serves."""
        self.members[0].stop()
        if self._cluster is not None:
            self._cluster.restart(self.members[0])
        else:
            self.members[0].start()


class Hosts:
    """A process that plays some of the hosts."""

    def __init__(self, urls: str, hosts: int, networks: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "bench.studies.feeds_hosts", urls, str(hosts),
             str(networks)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *command: str) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        print(*command, file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        """Return the answer to the last command."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def usage(self) -> dict[str, float]:
        """Return the process's CPU time, memory and threads."""
        self.ask("usage")
        return dict(self.answer())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                end.close()


class Bench:
    """All hosts, and the marks that show whether they are in step."""

    def __init__(self, stack: ExitStack, store: Store, hosts: int, networks: int) -> None:
        self._store, self._networks = store, networks
        self._kv = stack.enter_context(EtcdKeyValue(
            store.members[-1].settings(), call_s=WRITE_S))
        sizes = [1] + [min(PER_PROCESS, hosts - 1 - first)
                       for first in range(0, hosts - 1, PER_PROCESS)]
        self.all = []
        for size in sizes:
            self.all.append(Hosts(store.urls, size, networks))
            stack.callback(self.all[-1].close)
        self.one = self.all[0]

    def follow(self) -> None:
        """Have all hosts follow all networks."""
        for each in self.all:
            each.ask("follow")
        for each in self.all:
            each.answer()

    def in_step(self, value: str) -> float:
        """Change every network, and return the seconds until all hosts know."""
        puts = [Put(mark(number), value.encode()) for number in range(1, self._networks + 1)]
        began_s = time.monotonic()
        for start in range(0, len(puts), BATCH):
            self._commit(puts[start:start + BATCH])
        for each in self.all:
            each.ask("step", value)
        return float(max(each.answer() for each in self.all) - began_s)

    def _commit(self, puts: Sequence[Put]) -> None:
        while True:  # the connection to a restarted member comes back within a second
            try:
                self._kv.commit([], puts)
            except StoreUnavailable:
                continue
            return

    def lists(self) -> int:
        """Return how many lists all hosts have read since `follow` ended."""
        for each in self.all:
            each.ask("lists")
        return sum(each.answer() for each in self.all)

    def compact(self) -> None:
        """Have etcd forget everything before now."""
        for _ in range(2):  # no host has read the second
            self._commit([Put(mark(0), b"x")])
        self._kv.compact(self._kv.range(mark(0)).revision)


def measure(hosts: int, networks: int, members: int, rest_s: float
            ) -> Iterator[tuple[str, object]]:
    """Yield the figures of one run, each with its title."""
    with ExitStack() as stack:
        store = stack.enter_context(Store(members))
        bench = Bench(stack, store, hosts, networks)
        empty = bench.one.usage()
        bench.follow()
        bench.in_step("first")
        yield "load of the machine", os.getloadavg()[0]
        yield "a change of each network, s", bench.in_step("second")
        before, began_s, one = store.counts(), time.monotonic(), bench.one.usage()
        time.sleep(rest_s)
        after, passed_s, later = store.counts(), time.monotonic() - began_s, bench.one.usage()
        yield "at rest, a second", {name: (after[name] - before[name]) / passed_s
                                    for name in COUNTS}
        yield "etcd", store.state()
        yield "one driver", {
            "threads": later["threads"], "memory_mb": later["memory_mb"] - empty["memory_mb"],
            "cpu, of a core": (later["cpu_s"] - one["cpu_s"]) / passed_s}
        yield "restarted", restarted(bench, store)
        bench.compact()
        yield "restarted, compacted before", restarted(bench, store)


def restarted(bench: Bench, store: Store) -> dict[str, float]:
    """Restart a member; measure from when it serves again."""
    before, lists, one = store.counts(), bench.lists(), bench.one.usage()
    alone = len(store.members) == 1
    store.restart()
    value = f"restarted {time.monotonic()}".replace(" ", "-")
    seconds = bench.in_step(value)
    after = store.counts()
    # A restarted member counts from 0.
    spent = {name: after[name] - (0 if alone else before[name]) for name in COUNTS}
    return {"in step after, s": seconds, "lists by hosts": bench.lists() - lists,
            "CPU of one driver, s": bench.one.usage()["cpu_s"] - one["cpu_s"],
            **{name: spent[name] for name in COUNTS if alone}, **{
                "memory_mb": store.state()["memory_mb"]}}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="bench.studies.feeds", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--members", type=int, choices=(1, 3), default=1)
    parser.add_argument("--rest", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    found: dict[str, object] = {
        "hosts": given.hosts, "networks": given.networks, "members": given.members}
    for what, figures in measure(given.hosts, given.networks, given.members, given.rest):
        found[what] = figures
        print(what, json.dumps(figures), flush=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
