"""Writes the tables of docs/performance.md from the committed results.

`python -m bench.report.document` rewrites them; nobody edits them by hand.  Pure but for the two
files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness.networks import CROSS, HOST, LOCAL, OVERLAY, SLIM
from bench.harness.options import LATEST
from bench.report import results
from bench.report.results import Row
from bench.report.tables import amount

DOC = Path(__file__).resolve().parents[2] / "docs/performance.md"
# Workloads whose median is a time that a user waits; the table of rates has the others.
LATENCIES = {"tcp round trips": "p50", "udp round trips": "p50",
             "connections, client closes": "connect p50",
             "connections, server closes": "connect p50"}


def main() -> int:
    """Rewrite the document."""
    DOC.write_text(written(DOC.read_text(), results.load(LATEST)))
    return 0


def written(text: str, rows: Sequence[Row]) -> str:
    """Return the document with every `<!-- table: NAME -->` … `<!-- end -->` made anew."""
    cross = [row for row in rows if row.scope == CROSS]
    tables = {"conditions": conditions(rows), "latencies": latencies(cross),
              "one-host": rates([row for row in rows if row.scope == LOCAL]),
              **{fabric: rates([row for row in cross if row.conditions.fabric == fabric])
                 for fabric in results.FABRICS}}
    for name, lines in tables.items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        if text.count(begin) != 1:
            raise ValueError(f"{DOC.name}: {text.count(begin)} places for table {name}")
        before, _, rest = text.partition(begin)
        after = rest[rest.index(end):]
        text = before + begin + "".join(f"{line}\n" for line in lines) + after
    return text


def conditions(rows: Sequence[Row]) -> list[str]:
    """List machines, kernels and dates, and how much was measured."""
    found = dict.fromkeys(
        f"{row.conditions.machine}; Linux {row.conditions.kernel}; {row.conditions.date}"
        for row in rows)
    rounds = max(row.rounds for row in rows)
    return [f"{'; '.join(found)}. {rounds} interleaved rounds of "
            f"{rows[0].conditions.seconds:g} s (20,000 idle connections: 3)."]


def rates(rows: Sequence[Row]) -> list[str]:
    """Make the table of one fabric's main figures, across hosts."""
    lines = ["| | host | slim / host | overlay / host | slim CPU / host's | overlay CPU / host's |",
             "|---|---|---|---|---|---|"]
    for title in dict.fromkeys(row.title for row in rows if not row.figure):
        own = {row.network: row for row in rows if row.title == title and not row.figure}
        host, slim, overlay = own[HOST], own[SLIM], own[OVERLAY]
        lines.append(f"| {title}, {host.unit} | {amount(host.value)} ± {host.spread / 2:.0%} | "
                     f"{_ratio(slim)} | {_ratio(overlay)} | {_cpu(slim)} | {_cpu(overlay)} |")
    return lines


def latencies(rows: Sequence[Row]) -> list[str]:
    """Make the table of the medians of LATENCIES, as ratios to the host network."""
    lines = ["| | host, µs | slim / host | overlay / host |", "|---|---|---|---|"]
    for workload, figure in LATENCIES.items():
        own = {row.network: row for row in rows
               if (row.workload, row.figure) == (workload, figure)}
        lines.append(f"| {own[HOST].title} | {amount(own[HOST].value)} | {_ratio(own[SLIM])} | "
                     f"{_ratio(own[OVERLAY])} |")
    return lines


def _ratio(row: Row) -> str:
    return f"{row.ratio_to_host:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"


def _cpu(row: Row) -> str:
    return f"{row.cpu_ratio_to_host:.2f}"


if __name__ == "__main__":
    sys.exit(main())
