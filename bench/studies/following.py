"""Measures what following connections (`slim flows`) costs, and what it costs if nobody does.

    .venv/bin/python -m bench.studies.following [--rounds 25] [--seconds 1] [--beside KERNEL_FOLDER]

Two hosts are namespaces, without Docker; client and server have a processor each.  Connections are
opened and closed as fast as they go, in turn: while nobody looks, while one follower reads all
events of both hosts as the driver and the command do, and, with --beside, through the programs of
another version (the folder kernel/ of its checkout).  In each round another way is first.  It
prints ratios of runs of the same round, to those while nobody looks; then how many events were read
and lost.  With the values given above it takes three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness import bounds
from bench.harness.image import compiled
from bench.harness.measure import PORT, TICKS_PER_S, busy_ticks, turned
from bench.report.stats import paired_ratio
from bench.studies.cost import Way, between_containers, pinned, serving
from driver.api.flows import flows_answer
from driver.datapath.code.programs import FILES, KERNEL_FOLDER
from driver.services.seeing.telling import FlowFilter
from tests.netns.seeing.follower import watching
from tests.support.fakes import dockerd
from tests.support.world.machines import Cluster, Machine

ALONE, FOLLOWED, BESIDE = "nobody looks", "followed", "the other version"


@dataclass(frozen=True)
class Figures:
    """One run."""

    connections_per_s: float
    cpu_us: float  # of the whole machine, for each connection
    connect_us: float  # median

    def __getitem__(self, name: str) -> float:
        return float(getattr(self, name))


COLUMNS = {"connections_per_s": "connections/s", "cpu_us": "CPU per connection, µs",
           "connect_us": "time to connect, µs"}


@dataclass
class Read:
    """What followers have read."""

    events: int = 0
    lost: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="bench.studies.following", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=bounds.rounds, default=25)
    parser.add_argument("--seconds", type=bounds.seconds, default=1.0)
    parser.add_argument("--beside", type=Path, help="another version's folder kernel/")
    given = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench.studies.following: needs root", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        netbench = compiled("netbench", str(folder))
        machines, way = made(stack, KERNEL_FOLDER)
        read = Read()
        ways: dict[str, Callable[[], Figures]] = {
            ALONE: lambda: measured(way, netbench, given.seconds)}

        def followed() -> Figures:
            with following(machines, read):
                return measured(way, netbench, given.seconds)

        ways[FOLLOWED] = followed
        stack.enter_context(serving(way, netbench))
        if given.beside:
            _, other = made(stack, completed(given.beside, folder / "kernel"))
            stack.enter_context(serving(other, netbench))
            ways[BESIDE] = lambda: measured(other, netbench, given.seconds)
        found: dict[str, list[Figures]] = {name: [] for name in ways}
        for number in range(given.rounds):
            for name in turned(list(ways), number):
                found[name].append(ways[name]())
    print("\n".join(table(found)))
    print(f"\n{read.events} events were read, {read.lost} were lost")
    return 0


def made(stack: ExitStack, kernel_folder: Path) -> tuple[list[Machine], Way]:
    """Make two hosts with these programs, and a container on each."""
    cluster = Cluster(stack)
    machines = [cluster.add_machine(kernel_folder=kernel_folder) for _ in range(2)]
    for machine in machines:
        dockerd.start_on(machine.netns)
    return machines, between_containers(machines[0], machines[1])


def completed(kernel_folder: Path, copy: Path) -> Path:
    """Return a copy of another version's programs; files that it does not have yet are empty."""
    shutil.copytree(kernel_folder, copy)
    for name in FILES:
        (copy / f"{name}.c").touch()
    return copy


def measured(way: Way, netbench: str, seconds: float) -> Figures:
    """Open and close connections for a while."""
    before = busy_ticks()
    done = json.loads(subprocess.run(
        [*way.client, *pinned(0), netbench, "crr+", way.address, str(PORT + 2), str(seconds)],
        check=True, capture_output=True, text=True, timeout=seconds + 60).stdout)
    cpu_us = (busy_ticks() - before) * 1e6 / TICKS_PER_S
    return Figures(done["count"] / done["seconds"], cpu_us / done["count"],
                   done["connect_p50_us"])


@contextmanager
def following(machines: Sequence[Machine], read: Read) -> Iterator[None]:
    """Read all events of these hosts meanwhile, and write them as the driver's answers."""
    with ExitStack() as stack:
        ended = threading.Event()
        for machine in machines:
            stack.enter_context(follower(machine, read, ended))
        stack.callback(ended.set)
        yield


@contextmanager
def follower(machine: Machine, read: Read, ended: threading.Event) -> Iterator[None]:
    """Follow one host's connections."""
    with watching(machine) as watch:
        after = watch.flows.follow(FlowFilter(), "").next

        def ask() -> None:
            position = after
            while not ended.is_set():
                answer = watch.flows.follow(FlowFilter(), position)
                position = answer.next
                json.dumps(flows_answer(answer))
                with read.lock:
                    read.events += len(answer.told)
                    read.lost += answer.lost

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def table(found: Mapping[str, Sequence[Figures]]) -> list[str]:
    """Make a table of medians, and of ratios to the runs while nobody looks."""
    rows = ["| | " + " | ".join(f"{title} | ratio (95 %)" for title in COLUMNS.values())
            + " |", "|---" * (1 + 2 * len(COLUMNS)) + "|"]
    for name, figures in found.items():
        cells = []
        for column in COLUMNS:
            own, alone = ([each[column] for each in some] for some in (figures, found[ALONE]))
            cells += [f"{statistics.median(own):,.1f}", ratio_text(own, alone)]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def ratio_text(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the ratios of runs of one round, and its confidence interval."""
    found = paired_ratio(ours, theirs)
    return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})"


if __name__ == "__main__":
    sys.exit(main())
