"""`make bench` and `bench/run`: compares slim with the host's network, Docker's and others.

It leaves nothing behind.  Exit status: 0; 1 if something failed or could not be set up; 2 for
options that make no sense; 130 when interrupted.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from bench.harness import image, testbed
from bench.harness.engine import Engine
from bench.harness.errors import BenchError
from bench.harness.networks import plan
from bench.harness.options import Options, listing, parse
from bench.harness.placement import Placement, Wanted
from bench.harness.progress import Progress, duration, say
from bench.harness.session import Effort, Measured, expected_s, measure_group
from bench.harness.workloads import GROUPS
from bench.report import charts, results
from bench.report import tables as report
from bench.report.results import Conditions, Row
from tests.lab.rig.hosts import CommandFailed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; see above for the exit status."""
    given = sys.argv[1:] if argv is None else argv
    if "--list" in given:
        print("\n".join(listing()))
        return 0
    try:
        options = parse(given)
        if not options.fresh:
            results.load(options.out)  # fail now, not after half an hour
    except BenchError as error:
        say(f"bench: {error}")
        return 2
    # SIGINT too: a shell without job control makes its background jobs ignore it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return run(options)
    except KeyboardInterrupt:
        say("interrupted: everything is removed; finished groups are in the results")
        return 130
    except (BenchError, CommandFailed) as error:
        say(f"bench: {error}")
        return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Interrupt once: a second Ctrl-C must not stop the clean-up."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    say("interrupted: cleaning up")
    raise KeyboardInterrupt


def run(options: Options) -> int:
    """Measure on each fabric and show the results; return the exit status."""
    groups = [g for g in GROUPS if any(w.group == g for w in options.workloads)]
    tar = image.build(groups)
    bench = Bench(options, tar, groups)
    if options.contexts:
        engines, addresses = testbed.contexts(options)
        bench.measure(engines, addresses, "plain")
    else:
        for fabric in options.fabrics:
            say(f"two hosts on this machine, each with its own dockerd and driver ({fabric}) …")
            with testbed.lab(fabric, options) as (engines, addresses):
                bench.measure(engines, addresses, fabric)
    bench.show()
    return 1 if bench.failures else 0


class Bench:
    """A run's options, image, and results so far."""

    def __init__(self, options: Options, tar: bytes, groups: Sequence[str]) -> None:
        self._options, self._tar, self._groups = options, tar, groups
        self._rows: list[Row] = []  # of this run
        self._before = [] if options.fresh else results.load(options.out)
        self.failures: list[str] = []

    def measure(self, engines: Sequence[Engine], addresses: Sequence[str], fabric: str) -> None:
        """Set up containers, and run all groups on these hosts."""
        options = self._options
        settings = dataclasses.replace(options.settings, mtu=testbed.MTU.get(fabric, 1500))
        if not options.contexts:
            settings = dataclasses.replace(settings, macvlan_parent="eth0")
        wanted = Wanted([plan(name, settings) for name in options.networks], options.scopes,
                        options.congestion, addresses, options.strict)
        with Placement(engines, wanted, self._tar, say) as placement:
            if not placement.paths:
                raise BenchError("nothing to compare: bridge is for --scopes local")
            conditions = self._conditions(placement, fabric)
            results.check_machine(self._before, conditions.machine)  # fail now, not later
            effort = Effort(options.rounds, options.seconds, options.first_port,
                            len(placement.machines))
            total_s = sum(expected_s(w, len(placement.paths), effort) for w in options.workloads)
            say(f"{len(options.workloads)} workloads, {len(placement.paths)} ways, "
                f"{options.rounds} rounds of {options.seconds:g} s: about {duration(total_s)}")
            progress = Progress(total_s)
            for group in self._groups:
                own = [w for w in options.workloads if w.group == group]
                found = measure_group(own, placement.paths, effort, progress, say)
                progress.clear()
                self._keep(found, conditions)

    def _conditions(self, placement: Placement, fabric: str) -> Conditions:
        options = self._options
        classes = dict.fromkeys(
            f"{'virtual' if m['hypervisor'] else 'real'} machine, {m['cores']} cores, "
            f"{m['memory_gib']} GiB, {m['cpu'] or m['architecture']}" for m in placement.machines)
        where = "; ".join(classes)
        if not options.contexts:
            where += "; two hosts as namespaces"
        kernels = dict.fromkeys(m["kernel"] for m in placement.machines)
        return Conditions(where, ", ".join(kernels), time.strftime("%Y-%m-%d"), fabric,
                          options.congestion, options.seconds,
                          placement.busy_cpus, options.note)

    def _keep(self, found: Measured, conditions: Conditions) -> None:
        """Save to the file at once: an interrupted run keeps what it has finished."""
        self.failures += found.failed
        for workload in self._options.workloads:
            self._rows += results.rows_of(workload, found.runs, conditions)
        results.save(self._options.out, results.merged(self._before, self._rows))

    def show(self) -> None:
        """Print this run's tables; write tables and charts of all results beside the file."""
        options = self._options
        for line in report.report(self._rows, options.spread_limit):
            say(line)
        rows = results.load(options.out)
        table = options.out.with_suffix(".md")
        table.write_text("\n".join(report.report(rows, options.spread_limit)) + "\n")
        written = [options.out, table]
        try:
            written += charts.draw(rows, options.out.parent, options.out.stem)
        except BenchError as error:
            say(f"left out: {error}")
        say()
        say("written: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    sys.exit(main())
