"""Compares two results files, as ratios to the host network of the same run.

`python -m bench.report.compare OLD NEW [NETWORK]` prints Markdown.  Pure but for reading the files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness.errors import BenchError
from bench.harness.networks import SLIM
from bench.report import results
from bench.report.results import Row

USAGE = "usage: python -m bench.report.compare OLD.json NEW.json [NETWORK]"


def table(old: Sequence[Row], new: Sequence[Row], network: str = SLIM) -> list[str]:
    """Make a line for each figure that both have on that network.

    It says "better" or "worse" only where the confidence intervals do not overlap.
    """
    before = {row.key: row for row in old if row.network == network}
    pairs = [(before[row.key], row) for row in new if row.key in before]
    if not pairs:
        raise BenchError(f"the two files have no figure of {network!r} in common")
    lines = [f"| {network} / host | scope | before | after | | CPU before | CPU after |",
             "|---|---|---|---|---|---|---|"]
    for ours, theirs in pairs:
        fabric = "" if ours.conditions.fabric == results.FABRICS[0] else (
            f", {ours.conditions.fabric}")
        lines.append(f"| {theirs.title} | {theirs.scope}{fabric} | {_ratio(ours)} | "
                     f"{_ratio(theirs)} | {verdict(ours, theirs)} | {_cpu(ours)} | "
                     f"{_cpu(theirs)} |")
    return [*differences([ours for ours, _ in pairs], [theirs for _, theirs in pairs]), *lines]


def verdict(old: Row, new: Row) -> str:
    """Return one word, or "" where the difference may be chance."""
    if old.ratio_low is None or old.ratio_high is None or (
            new.ratio_low is None or new.ratio_high is None):
        return ""
    if new.ratio_low > old.ratio_high:
        return "better" if new.better == "higher" else "worse"
    if new.ratio_high < old.ratio_low:
        return "worse" if new.better == "higher" else "better"
    return ""


def differences(old: Sequence[Row], new: Sequence[Row]) -> list[str]:
    """List what else differs between the two, and so may be the cause."""
    lines = []
    for name in ("machine", "kernel", "congestion", "seconds"):
        sets = [sorted({str(getattr(row.conditions, name)) for row in rows}) for rows in (old, new)]
        if sets[0] != sets[1]:
            lines += [f"Not the same {name}: {', '.join(sets[0])} before, {', '.join(sets[1])} "
                      "after.", ""]
    return lines


def _ratio(row: Row) -> str:
    if row.ratio_to_host is None:
        return "-"
    return f"{row.ratio_to_host:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f})"


def _cpu(row: Row) -> str:
    return "" if row.cpu_ratio_to_host is None else f"{row.cpu_ratio_to_host:.3f}"


def main() -> int:
    """Print the table; 2 if the arguments make no sense."""
    if len(sys.argv) not in (3, 4):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        files = [Path(argument) for argument in sys.argv[1:3]]
        for file in files:
            if not file.exists():
                raise BenchError(f"{file} does not exist")
        old, new = (results.load(file) for file in files)
        print("\n".join(table(old, new, *sys.argv[3:])))
    except BenchError as error:
        print(f"bench.report.compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
