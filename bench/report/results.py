"""Makes rows of results from runs, keeps them in a file, and replaces older rows by newer ones.

Pure but for the file.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.errors import BenchError
from bench.harness.networks import HOST, KNOWN, SCOPES, SLIM
from bench.harness.runs import CPU_KINDS, Run
from bench.harness.workloads import BY_NAME, WORKLOADS, Workload
from bench.report import stats

FABRICS = ("plain", "no-offload", "mtu-9000")
STOLEN_LIMIT = 0.05
BUSY_CPUS = 0.2
Samples = list[float | None]  # one for each round; None: that run failed


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a row was measured."""

    machine: str  # its class
    kernel: str
    date: str  # YYYY-MM-DD
    fabric: str
    congestion: str
    seconds: float  # of a run
    busy_cpus: float  # CPUs that other programs kept busy before the first run
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One figure of one workload on one network.

    `figure` is "" for a workload's main figure; only that has CPU time.  A ratio is the median of
    the ratios to the host network's run of the same round.  `_low` and `_high` bound its 95 %
    confidence interval.  All three are None where the host network was not measured.
    """

    workload: str
    figure: str
    scope: str
    network: str
    title: str
    value: float
    unit: str
    better: str
    spread: float  # (q3 - q1) / median
    rounds: int
    ratio_to_host: float | None
    ratio_low: float | None
    ratio_high: float | None
    samples: Samples
    work: str
    cpu_us_per_unit: float | None
    cpu_split_us: dict[str, float] | None
    cpu_ratio_to_host: float | None
    cpu_samples: Samples
    retransmitted_share: float | None
    host_path_share: float | None
    stolen_share: float | None
    conditions: Conditions

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """The key by which a later row replaces this one."""
        return (self.conditions.fabric, self.workload, self.figure, self.scope, self.network)


def ratio(ours: Samples, theirs: Samples) -> stats.Ratio | None:
    """Return the ratio over the rounds in which both succeeded; None if there are none."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if a is not None and b]
    return stats.paired_ratio([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None


def rows_of(workload: Workload, runs: dict[tuple[str, str, str], list[Run | None]],
            conditions: Conditions) -> list[Row]:
    """Return all rows of a workload."""
    return [row for (name, scope, network), own in runs.items() if name == workload.name
            for row in _rows(workload, (scope, network), own, runs.get((name, scope, HOST), []),
                             conditions)]


def _rows(workload: Workload, way: tuple[str, str], runs: list[Run | None],
          host: list[Run | None], conditions: Conditions) -> Iterable[Row]:
    scope, network = way
    good = [run for run in runs if run]
    if not good:
        return
    for figure in workload.figures:
        main = not figure.key
        samples, reference = _samples(runs, figure.key), _samples(host, figure.key)
        values = [value for value in samples if value is not None]
        to_host = ratio(samples, reference)
        cpu, cpu_host = (_cpu(runs), _cpu(host)) if main else ([], [])
        cpu_ratio = ratio(cpu, cpu_host)
        shares = [run.host_path_share for run in good if run.host_path_share is not None]
        yield Row(
            workload.name, figure.key, scope, network, figure.title, stats.median(values),
            figure.unit, figure.better, stats.spread(values), len(values),
            *_bounds(to_host), samples,
            workload.work, stats.median([run.cpu_total_us for run in good]) if main else None,
            {kind: stats.median([run.cpu_us[kind] for run in good]) for kind in CPU_KINDS}
            if main else None, _bounds(cpu_ratio)[0], cpu,
            stats.median([run.retransmitted_share for run in good]) if main else None,
            min(shares) if main and shares else None,
            max(run.stolen_share for run in good) if main else None, conditions)


def _bounds(found: stats.Ratio | None) -> tuple[float | None, float | None, float | None]:
    return (found.value, found.low, found.high) if found else (None, None, None)


def _samples(runs: list[Run | None], key: str) -> Samples:
    return [run.figures[key] if run else None for run in runs]


def _cpu(runs: list[Run | None]) -> Samples:
    return [run.cpu_total_us if run else None for run in runs]


# ---- the file
def load(path: Path) -> list[Row]:
    """Read the rows of a results file; none if it does not exist.  Error: BenchError."""
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, list):
            raise TypeError("no list")
        return [_row(entry) for entry in found]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise BenchError(f"{path} does not hold results of this version ({error}): remove it, or "
                         "give another --out") from None


def _row(entry: dict[str, Any]) -> Row:
    return Row(**{**entry, "conditions": Conditions(**entry["conditions"])})


def save(path: Path, rows: Sequence[Row]) -> None:
    """Replace the file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    lines = [json.dumps(_rounded(dataclasses.asdict(row)), ensure_ascii=False) for row in rows]
    new.write_text("[\n" + ",\n".join(lines) + "\n]\n")  # a row a line: people read diffs
    new.replace(path)


def _rounded(value: Any) -> Any:
    """Round to five significant digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def check_machine(old: Sequence[Row], machine: str) -> None:
    """Refuse to add results of `machine` to those of another.  Error: BenchError."""
    for row in old:
        if row.conditions.machine != machine:
            raise BenchError(
                f"the results so far are of another machine ({row.conditions.machine}; this one: "
                f"{machine}): give another --out, or --fresh to begin anew")


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return `old` with `new` in place of the rows of the same workloads, scopes and fabric.

    A workload is replaced as a whole, also on networks that are no longer compared.
    Error: BenchError if the two are of different machines.
    """
    for row in new:
        check_machine(old, row.conditions.machine)
    replaced = {(row.conditions.fabric, row.workload, row.scope) for row in new}
    kept = [row for row in old
            if (row.conditions.fabric, row.workload, row.scope) not in replaced]
    return sorted((*kept, *new), key=_order)


def _order(row: Row) -> tuple[int, int, int, int, int, str]:
    names = [workload.name for workload in WORKLOADS]
    figures = [figure.key for figure in BY_NAME[row.workload].figures] if (
        row.workload in BY_NAME) else [row.figure]
    return (_index(FABRICS, row.conditions.fabric), _index(names, row.workload),
            _index(figures, row.figure), _index(SCOPES, row.scope), _index(KNOWN, row.network),
            row.network)


def _index(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def doubts(rows: Sequence[Row], limit: float) -> list[str]:
    """List what makes the rows less certain, for the user to read beside them."""
    found = []
    unsteady = [row for row in rows if row.network == HOST and not row.figure
                and row.spread > limit]
    if unsteady:
        found.append(f"The host network's own figures spread by more than {limit:.0%}, so ratios "
                     "to them are uncertain: " + _listed(unsteady, lambda row: row.spread))
    partly = [row for row in rows if row.network == SLIM and (row.host_path_share or 1) < 1]
    if partly:
        found.append("Not all of slim's connections took the path meant for them: "
                     + _listed(partly, lambda row: row.host_path_share or 0))
    busy = [row for row in rows if row.conditions.busy_cpus > BUSY_CPUS and not row.figure]
    if busy:
        titles = dict.fromkeys(row.title for row in busy)
        highest = max(row.conditions.busy_cpus for row in busy)
        found.append(f"Other programs were at work when it began (on up to {highest:.1f} CPUs); "
                     f"CPU time holds theirs: {'; '.join(titles)}.")
    stolen = [row for row in rows if (row.stolen_share or 0) > STOLEN_LIMIT]
    if stolen:
        found.append(f"The hypervisor took more than {STOLEN_LIMIT:.0%} of a CPU away in a run of: "
                     + _listed(stolen, lambda row: row.stolen_share or 0))
    return found


def _listed(rows: Sequence[Row], share: Callable[[Row], float]) -> str:
    """List each title once, with the largest of its shares."""
    titles: dict[str, list[float]] = {}
    for row in rows:
        fabric = "" if row.conditions.fabric == FABRICS[0] else f", {row.conditions.fabric}"
        titles.setdefault(f"{row.title} ({row.scope}{fabric})", []).append(share(row))
    return "; ".join(f"{title} {max(shares):.0%}" for title, shares in titles.items()) + "."
