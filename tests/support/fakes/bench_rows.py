"""Makes up runs and rows of the benchmark, for tests of the report."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness.runs import Run
from bench.harness.workloads import BY_NAME
from bench.report.results import Conditions, Row, rows_of

CONDITIONS = Conditions("virtual machine, 2 cores, 24 GiB", "6.18", "2026-01-02", "plain", "cubic",
                        1.0, 0.02)
LATENCY = {"p50": 50.0, "p99": 90.0, "p99.9": 150.0}
Key = tuple[str, str, str]


def run(value: float, cpu_us: float = 10, share: float | None = None, stolen: float = 0) -> Run:
    """Make a run with the figures of `tcp round trips`."""
    return Run({"": value, "mean": 1e6 / value, "opened/s": 1.0, **LATENCY},
               {"user": cpu_us * 0.25, "system": cpu_us * 0.5, "softirq": cpu_us * 0.25}, stolen,
               0.0, share)


def runs(workload: str, scope: str = "cross", **values: Sequence[Run | None]
         ) -> dict[Key, list[Run | None]]:
    """Make runs by key; `values` is by network, with `_` for `-`, and has one run a round."""
    return {(workload, scope, network.replace("_", "-")): list(own)
            for network, own in values.items()}


def rows(workload: str = "tcp round trips", scope: str = "cross",
         conditions: Conditions = CONDITIONS) -> list[Row]:
    """Make rows of host, slim (0.98 of host) and overlay (0.7 of host), seven rounds each."""
    hosts = [1000.0, 1010, 990, 1005, 995, 1002, 998]
    return rows_of(BY_NAME[workload], runs(
        workload, scope, host=[run(v) for v in hosts],
        slim=[run(v * 0.98, 10.3, 1.0) for v in hosts],
        overlay=[run(v * 0.7, 14) for v in hosts]), conditions)
