"""Makes Markdown tables of results.

`python -m bench.report.tables FILE` prints those of a file.  Pure but for that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.harness.networks import CROSS, HOST, KNOWN, TITLES
from bench.report import results
from bench.report.results import Row

SCOPE_TITLES = {CROSS: "Across hosts", "local": "On one host"}
FABRIC_TITLES = {
    "plain": "", "no-offload": ", a cable without segmentation offload",
    "mtu-9000": ", a cable that takes frames of 9,000 bytes"}


def amount(value: float) -> str:
    """Format with three significant digits."""
    if abs(value) >= 1000:
        return f"{float(f'{value:.4g}'):,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def report(rows: Sequence[Row], spread_limit: float) -> list[str]:
    """Return the whole report, in Markdown."""
    lines = conditions(rows)
    for fabric in dict.fromkeys(row.conditions.fabric for row in rows):
        for scope in dict.fromkeys(row.scope for row in rows):
            own = [row for row in rows if row.conditions.fabric == fabric and row.scope == scope]
            if own:
                title = f"{SCOPE_TITLES[scope]}{FABRIC_TITLES.get(fabric, f' ({fabric})')}"
                lines += ["", f"### {title}", "", *figures(own), "",
                          "CPU of all machines for each unit of work, µs:", "", *cpu(own), "",
                          *side_effects(own)]
    found = results.doubts(rows, spread_limit)
    if found:
        lines += ["", "### Read with care", "", *(f"* {doubt}" for doubt in found)]
    return lines


def conditions(rows: Sequence[Row]) -> list[str]:
    """Say where, when and how these rows were measured."""
    lines = []
    for row in rows:
        own = row.conditions
        line = (f"{own.machine}; Linux {own.kernel}; {own.date}; {own.congestion}; runs of "
                f"{own.seconds:g} s.{f' {own.note}' if own.note else ''}")
        if line not in lines:
            lines.append(line)
    return [*lines, "Medians of interleaved rounds; in brackets the median of the ratios to the "
            "host network's run of the same round, with its 95 % confidence interval."]


def _networks(rows: Sequence[Row]) -> list[str]:
    found = {row.network for row in rows}
    return [n for n in KNOWN if n in found] + sorted(found - set(KNOWN))


def _table(rows: Sequence[Row], head: str, cell: Callable[[Row], str]) -> list[str]:
    networks = _networks(rows)
    lines = [f"| {head} | {' | '.join(TITLES.get(n, n) for n in networks)} |",
             "|---|" + "---|" * len(networks)]
    for title in dict.fromkeys((row.title, row.unit) for row in rows):
        cells = {row.network: cell(row) for row in rows if (row.title, row.unit) == title}
        lines.append(f"| {title[0]}, {title[1]} | "
                     f"{' | '.join(cells.get(n, '-') for n in networks)} |")
    return lines


def figures(rows: Sequence[Row]) -> list[str]:
    """Make the table of values and their ratios to the host network."""
    def cell(row: Row) -> str:
        if row.network == HOST or row.ratio_to_host is None:
            return f"{amount(row.value)} ± {row.spread / 2:.0%}"
        return (f"{amount(row.value)} ({row.ratio_to_host:.2f}: {row.ratio_low:.2f} to "
                f"{row.ratio_high:.2f})")

    return _table(rows, "", cell)


def cpu(rows: Sequence[Row]) -> list[str]:
    """Make the table of CPU time for each unit, its ratio to the host network, and its parts."""
    def cell(row: Row) -> str:
        split = row.cpu_split_us or {}
        ratio = "" if row.cpu_ratio_to_host is None or row.network == HOST else (
            f" ({row.cpu_ratio_to_host:.2f})")
        return (f"{amount(row.cpu_us_per_unit or 0)}{ratio}: "
                + " + ".join(amount(split[kind]) for kind in split))

    own = [row for row in rows if row.cpu_us_per_unit is not None]
    lines = _table(own, "user + system + softirq", cell)
    works = {(row.title, row.unit): row.work for row in own}
    for (title, unit), work in works.items():
        lines = [line.replace(f"| {title}, {unit} |", f"| {title}, each {work} |")
                 for line in lines]
    return lines


def side_effects(rows: Sequence[Row]) -> list[str]:
    """Make the table of retransmissions, and of the paths that connections took."""
    lines = []
    retransmitted = [row for row in rows if (row.retransmitted_share or 0) > 0.0001]
    shown = ", ".join(f"{row.title} on {TITLES.get(row.network, row.network)} "
                      f"{row.retransmitted_share:.2%}" for row in retransmitted)
    lines.append(f"Segments sent again, where over 0.01 %: {shown or 'none'}.")
    shares = [row.host_path_share for row in rows
              if row.network == "slim" and row.host_path_share is not None]
    if shares:
        share = "100 %" if min(shares) == 1 else f"{min(shares):.1%} or more"
        lines.append(f"Connections of slim on the path meant for them: {share} in every run.")
    return lines


def main() -> int:
    """Print a file's report."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else (
        Path(__file__).parents[1] / "results" / "latest.json")
    print("\n".join(report(results.load(path), 0.10)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
