"""Measures one workload between two containers, with the CPU time it takes."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.lab.rig.hosts import Host

PORT = 7000  # netbench listens on PORT and PORT + 2, iperf3 on PORT + 1
T = TypeVar("T")
TICKS_PER_S = 100  # USER_HZ, the unit of /proc/stat


@dataclass(frozen=True)
class Pair:
    """A client on one host, a server on another, and the name by which the client calls it."""

    network: str
    client_host: Host
    client: str  # container name
    server_address: str
    port: int = PORT


@dataclass(frozen=True)
class Sample:
    """One run's result: a value in `unit`, and the machine's CPU time for each unit of work."""

    value: float
    cpu_us_per_unit: float


Results = dict[str, dict[str, list[Sample]]]  # workload -> way -> one sample for each round


def busy_ticks() -> int:
    """Return the ticks of CPU time that this machine has spent on all but idle and iowait."""
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = fields
    return user + nice + system + irq + softirq


def netbench_sample(client: Callable[[int], str], kind: str, port: int) -> Sample:
    """Measure netbench `kind` while `client` runs it; value in transactions per second.

    client: takes the server's port for this kind, returns what netbench printed.
    """
    before = busy_ticks()
    done = json.loads(client(port + 2 if kind == "crr+" else port))
    cpu_us = (busy_ticks() - before) * 1e6 / TICKS_PER_S
    return Sample(done["count"] / done["seconds"], cpu_us / done["count"])


def transactions(pair: Pair, kind: str, seconds: float) -> Sample:
    """Run netbench `kind` (rr, crr, crr+); value in transactions per second."""
    return netbench_sample(lambda port: pair.client_host.docker(
        "exec", pair.client, "netbench", kind, pair.server_address, str(port), str(seconds),
        timeout_s=seconds + 60), kind, pair.port)


def stream(pair: Pair, seconds: float) -> Sample:
    """Run iperf3, one stream; value in Gbit/s, CPU for each megabyte received."""
    before = busy_ticks()
    done = json.loads(pair.client_host.docker(
        "exec", pair.client, "iperf3", "-J", "-c", pair.server_address, "-p", str(pair.port + 1),
        "-t", str(math.ceil(seconds)), timeout_s=seconds + 60))  # it takes 0.5 for 0: no end
    cpu_us = (busy_ticks() - before) * 1e6 / TICKS_PER_S
    received = done["end"]["sum_received"]
    return Sample(received["bits_per_second"] / 1e9, cpu_us / (received["bytes"] / 1e6))


WORKLOADS = {
    "round trips/s": lambda pair, seconds: transactions(pair, "rr", seconds),
    "connections/s": lambda pair, seconds: transactions(pair, "crr+", seconds),
    "one stream, Gbit/s": stream,
}


def turned(items: Sequence[T], number: int) -> list[T]:
    """Rotate the items, so that another one is first in each round."""
    return [*items[number % len(items):], *items[:number % len(items)]]


def interleaved(workloads: Iterable[str], ways: Iterable[str], rounds: int,
                run: Callable[[int, str, str], Sample]) -> Results:
    """Run each workload on all ways in turn; in each round another way is first.

    run: takes the round's number, from 0, the workload and the way.
    """
    names = list(ways)
    found: Results = {workload: {name: [] for name in names} for workload in workloads}
    for number in range(rounds):
        for workload, by_way in found.items():
            for name in turned(names, number):
                by_way[name].append(run(number, workload, name))
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of runs of the same round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
