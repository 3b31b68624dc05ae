"""Measures names: queries beside Docker's own name server, changes, memory, growth.

    .venv/bin/python -m bench.studies.names [--quick] [--only PART,...] [--out FILE]

Two hosts of the lab have real dockerds and drivers.  It prints Markdown tables and writes
bench/results/names.json.  It removes everything it made at the end, also when it is interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.demo import progress, say
from bench.load.main import machine
from bench.studies.names import changes, growth, queries, table
from bench.studies.names.hosts import Pair, two_hosts
from bench.studies.names.report import RESULTS, tables
from tests.lab.rig import dockers
from tests.support.run.tiers import USUAL_LAB

PARTS = ("queries", "changes", "table", "growth")


@dataclass(frozen=True)
class Amounts:
    """How much is measured."""

    rounds: int  # of latencies
    queries: int  # of a way in a round
    rate_rounds: int
    seconds: float  # of a run as fast as possible
    changes: int  # containers that are led through their lives
    grown_queries: int
    grown_containers: int


FULL = Amounts(7, 600, 3, 2.0, 100, 500_000, 200)
QUICK = Amounts(2, 200, 1, 0.5, 6, 10_000, 6)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; the exit status is 0 if it ran to its end."""
    parser = argparse.ArgumentParser(prog="bench.studies.names", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="little of everything: figures that only show that it works")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...",
                        help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--docker", choices=dockers.VERSIONS, default=USUAL_LAB)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    parts = given.only.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"argument --only: want some of {', '.join(PARTS)}")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    began_s = time.monotonic()
    found: dict[str, Any] = {"machine": machine(), "docker": given.docker}
    try:
        measure(found, parts, QUICK if given.quick else FULL)
    except KeyboardInterrupt:
        say("\ninterrupted: cleaned up")
        return 130
    except RuntimeError as error:  # programs or rights are missing
        print(f"bench.studies.names: {error}", file=sys.stderr)
        return 2
    found["seconds"] = time.monotonic() - began_s
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    say()
    for line in tables(found):
        say(line)
    return 0


def measure(found: dict[str, Any], parts: Sequence[str], amounts: Amounts) -> None:
    """Measure these parts, and put into `found` what each has found."""
    if "table" in parts:
        say("100,000 names in a driver's memory …")
        found["table"] = [table.measured(step) for step in table.STEPS]
    if not set(parts) - {"table"}:
        return
    say("Two hosts on this machine, each with its own dockerd and driver …")
    with two_hosts(found["docker"]) as pair:
        _on_hosts(pair, found, parts, amounts)
        progress("")
        say("removing the hosts …")


def _on_hosts(pair: Pair, found: dict[str, Any], parts: Sequence[str], amounts: Amounts) -> None:
    if "queries" in parts:
        say("how long a query takes …")
        found["latencies"] = queries.latencies(pair, amounts.rounds, amounts.queries, progress)
        say("how many queries a second are answered …")
        found["rates"] = queries.rates(pair, amounts.rate_rounds, amounts.seconds, progress)
    if "changes" in parts:
        say("how soon another host finds a name, or no more …")
        found["changes"], found["stages"] = changes.measure(pair, amounts.changes, progress)
    if "growth" in parts:
        say("whether the driver grows …")
        found["growth"] = growth.measure(pair, amounts.grown_queries, amounts.grown_containers,
                                         progress)


if __name__ == "__main__":
    sys.exit(main())
