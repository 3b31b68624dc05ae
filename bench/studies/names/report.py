"""Makes Markdown tables of what the study of names has found.

`python -m bench.studies.names.report [FILE]` prints them.  Pure but for that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report import stats
from bench.studies.names import queries
from bench.studies.names.changes import RUN

RESULTS = Path(__file__).parents[2] / "results" / "names.json"
MORE_MS, SOON_MS = 0.3, 200.0  # what a name outside may take longer; when a new name is found

Found = Mapping[str, Any]


def tables(found: Found) -> list[str]:
    """Return all tables of the parts that were measured."""
    parts: dict[str, Callable[[Any], list[str]]] = {
        "latencies": _latencies, "rates": _rates, "changes": _changes, "stages": _stages,
        "table": _table, "growth": _growth}
    machine = found["machine"]
    lines = [f"{machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}, "
             f"Docker {found['docker']}; {machine['date']}, load average "
             f"{machine['load_average']:.1f} before."]
    for name, part in parts.items():
        if name in found:
            lines += ["", *part(found[name])]
    return lines


def _latencies(ways: Found) -> list[str]:
    rows = ["| one query, ms | median | 99 % | lost |", "|---|---|---|---|"]
    rows += [f"| {way} | {_middle(runs, 'p50_ms'):.2f} | {_middle(runs, 'p99_ms'):.2f} | "
             f"{sum(run['lost'] for run in runs):.0f} |" for way, runs in ways.items()]
    rows.append("")
    for title, ours, theirs in (
            ("a name outside, slim beside slim.names=off", queries.OUTSIDE_ON,
             queries.OUTSIDE_OFF),
            ("a name of the same host, slim beside slim.names=off", queries.SAME_HOST,
             queries.DOCKERS)):
        for key, share in (("p50_ms", "median"), ("p99_ms", "99 %")):
            more = stats.paired_difference(_all(ways[ours], key), _all(ways[theirs], key))
            rows.append(f"* {title}: {share} {more.value:+.2f} ms ({more.low:+.2f} to "
                        f"{more.high:+.2f})")
    more_ms = stats.paired_difference(_all(ways[queries.OUTSIDE_ON], "p50_ms"),
                                      _all(ways[queries.OUTSIDE_OFF], "p50_ms")).value
    return [*rows, f"* the bar, {MORE_MS} ms more for a name outside (median): "
                   f"{_met(more_ms <= MORE_MS)}"]


def _rates(whats: Mapping[str, Found]) -> list[str]:
    rows = ["| queries a second | | 1/s | of slim.names=off | CPU, µs each | longest, ms | lost |",
            "|---|---|---|---|---|---|---|"]
    for what, ways in whats.items():
        dockers = _all(ways[queries.DOCKERS], "per_s")
        rows += [f"| {what} | {way} | {_middle(runs, 'per_s'):,.0f} | "
                 f"{stats.paired_ratio(_all(runs, 'per_s'), dockers).value:.2f} | "
                 f"{_middle(runs, 'cpu_us'):.0f} | {_middle(runs, 'max_ms'):.0f} | "
                 f"{sum(run['lost'] for run in runs):.0f} |" for way, runs in ways.items()]
    return [*rows, "", "A container has a quarter of the thread of slim's server at most."]


def _changes(times: Mapping[str, Sequence[float | None]]) -> list[str]:
    rows = ["| after the return of docker …, ms | median | 99 % | longest | not in 5 s |",
            "|---|---|---|---|---|"]
    for what, ms in times.items():
        rows.append(f"| {what} | {_spans(ms)} | {sum(one is None for one in ms)} of {len(ms)} |")
    new = [one for what, ms in times.items() for one in ms if what.startswith(RUN)]
    late = sum(one is None or one > SOON_MS for one in new)
    return [*rows, "", f"The bar, {SOON_MS:.0f} ms from `{RUN}` to the other host at 99 %: "
                       f"{_met(late <= len(new) / 100)} ({late} of {len(new)} took longer)"]


def _stages(times: Mapping[str, Sequence[float]]) -> list[str]:
    return [f"| of `{RUN}`, ms | median | 99 % | longest |", "|---|---|---|---|",
            *(f"| {what} | {_spans(ms)} |" for what, ms in times.items())]


def _spans(ms: Sequence[float | None]) -> str:
    good = [one for one in ms if one is not None]
    return (f"{stats.median(good):.0f} | {stats.quantile(good, 0.99):.0f} | {max(good):.0f}"
            if good else "- | - | -")


def _table(steps: Sequence[Found]) -> list[str]:
    kinds = list(steps[0]["us"])
    rows = [f"| endpoints | names each | networks | memory, MB | kB a name | filled in, s | "
            f"{' | '.join(f'{kind}, µs' for kind in kinds)} |",
            "|---" * (6 + len(kinds)) + "|"]
    for step in steps:
        asked = " | ".join(f"{step['us'][kind]:,.0f}" for kind in kinds)
        each_kb = step["memory_mb"] * 1024 / (step["endpoints"] * step["names"])
        rows.append(f"| {step['endpoints']:,} | {step['names']} | {step['networks']} | "
                    f"{step['memory_mb']:.0f} | {each_kb:.2f} | {step['filled_s']:.1f} | "
                    f"{asked} |")
    return rows


def _growth(found: Found) -> list[str]:
    rows = ["| of the driver | queries | containers | memory, MB | threads | files |",
            "|---|---|---|---|---|---|"]
    for title, key, count, containers in (
            ("at first", "before", 0, 0),
            ("warm", "warm", found["warm_queries"], found["warm_containers"]),
            ("at the end", "after", found["warm_queries"] + found["queries"],
             found["warm_containers"] + found["containers"])):
        has = found[key]
        rows.append(f"| {title} | {count:,} | {containers} | {has['memory_mb']:.1f} | "
                    f"{has['threads']} | {has['files']} |")
    return [*rows, "", f"{found['queries'] / found['seconds']:,.0f} queries a second of four "
                       f"containers, of which {found['lost']} were lost; a container came and "
                       f"went every {found['seconds'] / max(found['containers'], 1):.2f} s."]


def _all(runs: Sequence[Found], key: str) -> list[float]:
    return [run[key] for run in runs]


def _middle(runs: Sequence[Found], key: str) -> float:
    return stats.median(_all(runs, key))


def _met(well: bool) -> str:
    return "met" if well else "MISSED"


if __name__ == "__main__":
    print("\n".join(tables(json.loads(Path(sys.argv[1] if sys.argv[1:] else RESULTS).read_text()))))
