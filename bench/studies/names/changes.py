"""Measures how soon another host finds a name after Docker's command has returned, or no more."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from bench.studies.names.hosts import SERVER, SLIM, WAIT_S, Pair, Progress, asker, run
from bench.studies.names.stages import Stages
from tests.lab.rig.hosts import Host

PERIOD_US = 3000  # between two queries for a name
LOST_S = 5.0  # what takes longer is not waited for
FOUND, NONE = "found", "none"
RUN = "docker run -d"
# By command: milliseconds, negative if it was before the command's return; None: not in LOST_S.
Times = dict[str, list[float | None]]


class Watcher:
    """A program in a container that asks for names all the time; context manager."""

    def __init__(self, host: Host, container: str) -> None:
        self._changed = threading.Condition()
        self._last: dict[str, tuple[str, float]] = {}  # name -> its state, since when
        self._process = subprocess.Popen(
            host.command("docker", "exec", "-i", container, "dnswatch", "names", SERVER,
                         str(PERIOD_US)), env=host.lab.env, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # it ends then; a signal would not come into the container
        self._thread.join(WAIT_S)
        self._process.stdout.close()
        self._process.wait(WAIT_S)

    def ask(self, *names: str) -> None:
        """Ask for these from now on, instead of the others."""
        with self._changed:
            self._last.clear()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{' '.join(names)}\n")
        self._process.stdin.flush()

    def since(self, name: str, state: str) -> float | None:
        """Wait until the name's state is this; return since when (monotonic, seconds).

        None: it is not within LOST_S.
        """
        with self._changed:
            if self._changed.wait_for(
                    lambda: self._last.get(name, ("",))[0] == state, LOST_S):
                return self._last[name][1]
        return None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            name, state, moment = line.split()
            with self._changed:
                self._last[name] = state, float(moment)
                self._changed.notify_all()


def measure(pair: Pair, rounds: int, progress: Progress) -> tuple[Times, dict[str, list[float]]]:
    """Start, rename, disconnect, connect, stop, start and remove a container, again and again.

    It is on the first host, and asked for on the second.  Returns the milliseconds from each
    command's return until the name is found or is not, and what `docker run`'s are made of.
    """
    with Watcher(pair.there, asker(SLIM)) as watcher, Stages(pair) as stages:
        changes = _Changes(pair.here, watcher, stages)
        for number in range(rounds):
            progress(f"container {number + 1}/{rounds}")
            changes.one(f"c{number}", f"r{number}")
        return changes.times, stages.ms


class _Changes:
    """Makes changes on a host, and takes their times."""

    def __init__(self, host: Host, watcher: Watcher, stages: Stages) -> None:
        self.times: Times = {}
        self._host, self._watcher, self._stages = host, watcher, stages

    def one(self, name: str, other: str) -> None:
        """Lead one container through its life."""
        docker = self._host.docker
        self._change(RUN, lambda: run(self._host, name), {name: FOUND})
        self._change("rename", lambda: docker("rename", name, other), {other: FOUND, name: NONE})
        self._change("network disconnect", lambda: docker("network", "disconnect", SLIM, other),
                     {other: NONE})
        self._change("network connect", lambda: docker("network", "connect", SLIM, other),
                     {other: FOUND})
        self._change("stop", lambda: docker("stop", other), {other: NONE})
        self._change("start", lambda: docker("start", other), {other: FOUND})
        self._change("rm -f", lambda: docker("rm", "-f", other), {other: NONE})

    def _change(self, what: str, act: Callable[[], object], wanted: Mapping[str, str]) -> None:
        self._watcher.ask(*wanted)
        before = {name: self._watcher.since(name, NONE if state == FOUND else FOUND)
                  for name, state in wanted.items()}
        act()
        returned_s = time.monotonic()
        for name, state in wanted.items():
            if before[name] is None:
                continue  # the change before was lost, and counts as that already
            moment_s = self._watcher.since(name, state)
            self.times.setdefault(f"{what}: {state}", []).append(
                (moment_s - returned_s) * 1000 if moment_s is not None else None)
            if what == RUN and moment_s is not None:
                self._stages.note(returned_s, moment_s)
