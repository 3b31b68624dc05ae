"""`make load`: measures the memory and time that a driver needs as endpoints and entries grow.

First it opens very many connections between two hosts that are namespaces.  Then it loads one
host with a real etcd and a real `slim serve`; its containers are namespaces, too.  It prints
Markdown tables and writes bench/results/load.json.  It removes everything it made at the end,
also when it is interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

from bench.harness import bounds
from bench.load import connections as load_connections
from bench.load.host import CALLS, LoadedHost, median, percentile

RESULTS = Path(__file__).parents[1] / "results" / "load.json"
# Endpoints of this host, and directory entries of others.
STEPS = ((10, 100), (100, 100), (200, 100), (1000, 100), (1000, 10_000), (1000, 50_000),
         (1000, 100_000))
SETTLE_S = 35.0  # the driver returns free memory every 30 s

Row = dict[str, Any]


def say(text: str = "") -> None:
    """Print a line at once."""
    print(text, flush=True)


def measure(host: LoadedHost, endpoints: int, directory: int, rounds: int) -> Row:
    """Bring the host to this load, and measure everything."""
    grown = time.monotonic()
    host.grow(endpoints)
    grown_s = time.monotonic() - grown
    feed_s = host.fill(directory)
    _, fill_peak = host.memory_mb()
    times, cpu_ms, late = host.cycles(rounds)
    changes = [host.change_ms() for _ in range(rounds)]
    host.wait_directory()
    _, cycle_peak = host.memory_mb()
    restarted = time.monotonic()
    answers_s, recovered_s, complete_s = host.restart()
    _, restart_peak = host.memory_mb()
    time.sleep(max(0.0, SETTLE_S - (time.monotonic() - restarted)))
    memory, _ = host.memory_mb()
    maps = host.maps_kb()
    return {
        "endpoints": endpoints, "directory": directory, "grow_s": grown_s, "feed_s": feed_s,
        "rss_mb": memory, "peak_mb": max(fill_peak, cycle_peak, restart_peak),
        "cpu_ms_per_container": cpu_ms,
        "calls_ms": {name: [percentile(times.ms[name], 0.5), percentile(times.ms[name], 0.99),
                            min(times.ms[name])] for name in CALLS},
        "finish_ms": [median(late), percentile(late, 0.99)],
        "change_ms": [median(changes), percentile(changes, 0.99)],
        "restart_s": {"answers": answers_s, "reconciled": recovered_s, "complete": complete_s},
        "maps_kb": maps}


def tables(rows: list[Row]) -> list[str]:
    """Markdown."""
    lines = ["| endpoints here | directory | memory, MB | peak, MB | maps, MB | ready, s | "
             "reconciled, s | complete, s | change to maps, ms | carrier to finished, ms | "
             "CPU a container, ms |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        restart = row["restart_s"]
        lines.append(
            f"| {row['endpoints']:,} | {row['directory']:,} | {row['rss_mb']:.0f} | "
            f"{row['peak_mb']:.0f} | {sum(row['maps_kb'].values()) / 1024:.1f} | "
            f"{restart['answers']:.1f} | {restart['reconciled']:.1f} | "
            f"{restart['complete']:.1f} | {row['change_ms'][0]:.1f} | {row['finish_ms'][0]:.1f} | "
            f"{row['cpu_ms_per_container']:.0f} |")
    lines += ["", f"| endpoints here | directory | {' | '.join(CALLS)} |",
              "|---|---|" + "---|" * len(CALLS)]
    for row in rows:
        calls = " | ".join("{:.1f} / {:.1f}".format(*row["calls_ms"][name]) for name in CALLS)
        lines.append(f"| {row['endpoints']:,} | {row['directory']:,} | {calls} |")
    return lines


def connection_table(found: Row) -> list[str]:
    """Markdown."""
    new = found["new_us"]
    return [
        "| connections at once | opened in, s | connect() among the others, p50 / p99, µs | "
        + " | ".join(f"a new one alone with {state}, µs" for state in new)
        + " | flow map, bytes each (both hosts) | slab, bytes each (both hosts) | sweep, ms |",
        "|---|---|---|---|---|---|---|---|",
        f"| {found['connections']:,} | {found['opened_s']:.1f} | {found['open_p50_us']:.0f} / "
        f"{found['open_p99_us']:.0f} | "
        + " | ".join(f"{median:.0f} (best {best:.0f})" for median, best in new.values())
        + f" | {found['flow_bytes_per_connection']:.0f} | "
        f"{found['slab_bytes_per_connection']:.0f} | {found['sweep_s'] * 1000:.0f} |"]


def machine() -> dict[str, Any]:
    """Return what the measurement ran on."""
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {"kernel": platform.release(), "cores": os.cpu_count(),
            "memory_gib": round(memory_kb / 2**20), "date": time.strftime("%Y-%m-%d"),
            "load_average": os.getloadavg()[0]}


def main() -> int:
    """Measure; the exit status is 0 if it ran to its end."""
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("--rounds", type=bounds.rounds, default=60,
                        help="containers a step (default 60)")
    parser.add_argument("--steps", help="ENDPOINTS:DIRECTORY,... instead of the usual ones")
    parser.add_argument("--connections", type=bounds.within(int, 0, 1_000_000), default=20_000,
                        help="open at once between two hosts (default 20,000; 0: not measured)")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    steps = [tuple(map(int, step.split(":"))) for step in options.steps.split(",")] if (
        options.steps) else STEPS
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    rows: list[Row] = []
    connections: Row = {}
    try:
        if options.connections:
            connections = load_connections.measure(options.connections)
            say(json.dumps(connections))
        with LoadedHost() as host:
            for endpoints, directory in steps:
                rows.append(measure(host, endpoints, directory, options.rounds))
                say(json.dumps(rows[-1]))
    except KeyboardInterrupt:
        say("interrupted: cleaned up")
        return 130
    say()
    for line in (*tables(rows), "", *(connection_table(connections) if connections else ())):
        say(line)
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(
        {"machine": machine(), "connections": connections, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
