"""Orders the runs of a group: rounds, workloads in each, and the networks in turn within those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.harness.engine import Agent
from bench.harness.errors import BenchError
from bench.harness.measure import turned
from bench.harness.placement import Path
from bench.harness.progress import Progress
from bench.harness.runs import Run, measure
from bench.harness.workloads import SERVERS, Workload

READY_S = 60.0
PREPARE_S = 60.0


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    seconds: float
    first_port: int
    machines: int


@dataclass
class Measured:
    """A group's runs by (workload, scope, network), one a round; for each failure None, and why."""

    runs: dict[tuple[str, str, str], list[Run | None]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def add(self, key: tuple[str, str, str], run: Run | None, why: str) -> None:
        """Keep a run, or the reason why it failed."""
        self.runs.setdefault(key, []).append(run)
        if run is None:
            self.failed.append(why)


def expected_s(workload: Workload, paths: int, effort: Effort) -> float:
    """Estimate the seconds that all of the workload's runs take."""
    return paths * rounds_of(workload, effort) * run_s(workload, effort)


def run_s(workload: Workload, effort: Effort) -> float:
    """Estimate the seconds that one run takes."""
    return (0 if workload.idle else effort.seconds) + workload.extra_s


def rounds_of(workload: Workload, effort: Effort) -> int:
    """Return how many rounds to run; some workloads need fewer."""
    return min(effort.rounds, workload.rounds or effort.rounds)


def measure_group(workloads: Sequence[Workload], paths: Sequence[Path], effort: Effort,
                  progress: Progress, say: Callable[[str], None]) -> Measured:
    """Start the group's servers everywhere, run everything interleaved, stop the servers."""
    measured = Measured()
    servers = list(dict.fromkeys(path.server for path in paths))  # both scopes share one
    try:
        for agent in servers:
            _start(workloads, agent, effort.first_port)
        prepared: set[Agent] = set()
        for path in paths:
            _wait(workloads, path, path.server not in prepared, effort.first_port)
            prepared.add(path.server)
        for number in range(effort.rounds):
            for workload in workloads:
                if number >= rounds_of(workload, effort):
                    continue
                for path, run, why in _round(workload, number, _turned(paths, number), effort,
                                             progress):
                    measured.add((workload.name, path.scope, path.network), run, why)
    finally:
        for agent in servers:
            try:
                agent.ask("stop")
            except BenchError as error:
                say(f"{agent.name}: {error}")
    for failure in measured.failed:
        say(f"failed: {failure}")
    return measured


def _turned(paths: Sequence[Path], number: int) -> list[Path]:
    """Rotate each scope's paths; the two runs of a ratio are of one scope, and stay close."""
    ordered: list[Path] = []
    for scope in dict.fromkeys(path.scope for path in paths):
        own = [path for path in paths if path.scope == scope]
        ordered += turned(own, number)
    return ordered


def _start(workloads: Sequence[Workload], agent: Agent, first_port: int) -> None:
    for name in dict.fromkeys(name for workload in workloads for name in workload.servers):
        server = SERVERS[name]
        agent.ask("start", argv=list(server.argv(first_port + server.offset)), user=server.user)


def _wait(workloads: Sequence[Workload], path: Path, first: bool, first_port: int) -> None:
    """Wait until the client reaches all servers; a server's first client prepares it."""
    for name in dict.fromkeys(name for workload in workloads for name in workload.servers):
        server = SERVERS[name]
        port = first_port + server.offset
        try:
            path.client.ask("wait", READY_S, host=path.address, port=port, timeout_s=READY_S)
            if server.prepare and first:
                path.client.run(server.prepare(path.address, port), PREPARE_S)
        except BenchError as error:
            raise BenchError(f"{name} on {path}: {error}\n{path.server.ask('log')['log']}"
                             ) from None


def _round(workload: Workload, number: int, paths: Sequence[Path], effort: Effort,
           progress: Progress) -> Iterator[tuple[Path, Run | None, str]]:
    """Run the workload once on each path; yield the path, its run, and why it failed."""
    headline = f"round {number + 1}/{rounds_of(workload, effort)}: {workload.name}"
    for path in paths:
        progress.show(headline, str(path))
        try:
            yield path, measure(workload, path, effort.seconds, effort.first_port,
                                effort.machines), ""
        except BenchError as error:
            yield path, None, f"{workload.name}, {path}: {error}"
        progress.done(run_s(workload, effort))
