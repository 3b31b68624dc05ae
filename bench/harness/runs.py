"""Runs a workload once on one path: figures, CPU, retransmissions, the connections' path."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from bench.harness.errors import BenchError
from bench.harness.networks import CROSS
from bench.harness.placement import Path
from bench.harness.workloads import IDLE_PROCESSES, SERVERS, Workload

CPU_KINDS = ("user", "system", "softirq")
COMMAND_SLACK_S = 30.0
SETTLE_S = 10.0
SETTLED_KB = 512
Reading = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """Figures by key; all machines' CPU microseconds for each unit of work, by kind."""

    figures: dict[str, float]
    cpu_us: dict[str, float]
    stolen_share: float  # of one CPU's time, taken by the hypervisor
    retransmitted_share: float  # of the segments that both ends sent
    # Share of the client's connections on the path meant for them; None: no TCP, or not slim.
    host_path_share: float | None

    @property
    def cpu_total_us(self) -> float:
        """The sum of all kinds."""
        return sum(self.cpu_us.values())


def measure(workload: Workload, path: Path, seconds: float, first_port: int, machines: int) -> Run:
    """Run the workload once.  Error: BenchError, also if the program printed no figures."""
    connected = _as_meant(path)
    server_before = path.server.ask("read")
    if workload.idle:
        units, figures, before, after, took_s = _idle(workload, path, first_port)
    else:
        done = path.client.run(workload.argv(path.address, first_port, seconds),
                               seconds + COMMAND_SLACK_S, path.env)
        outcome = workload.parse(done["out"])
        units, figures = outcome.units, outcome.figures
        before, after, took_s = done["before"], done["after"], done["seconds"]
    server_after = path.server.ask("read")
    if path.driver:
        connected = _as_meant(path) - connected
    ends = [(before, after)] if path.shared else [(before, after), (server_before, server_after)]
    clocks = ends if machines > 1 and path.scope == CROSS else ends[:1]
    opened = after["opened"] - before["opened"]
    return Run(
        figures,
        {kind: sum(b["cpu"][kind] - a["cpu"][kind] for a, b in clocks) / units
         for kind in CPU_KINDS},
        (after["steal_us"] - before["steal_us"]) / (took_s * 1e6),
        _share(ends, "retransmitted"),
        min(1.0, connected / opened) if path.driver and workload.tcp and opened else None)


def _share(ends: list[tuple[Reading, Reading]], what: str) -> float:
    sent = sum(b["sent"] - a["sent"] for a, b in ends)
    return sum(b[what] - a[what] for a, b in ends) / sent if sent else 0.0


def _as_meant(path: Path) -> int:
    """Count the client host's connections so far on the host path; on one host: handed over."""
    if not path.driver:
        return 0
    counters = path.driver.ask("counters")["Counters"]
    return int(counters["connected" if path.scope == CROSS else "local"])


def _idle(workload: Workload, path: Path, first_port: int
          ) -> tuple[float, dict[str, float], Reading, Reading, float]:
    """Open very many connections, leave them idle, and measure the kernel memory they take."""
    each = workload.idle // IDLE_PROCESSES
    argvs = [["manyconns", "hold", path.address, str(first_port + SERVERS[name].offset), str(each),
              "reset"] for name in workload.servers]
    before = _settled(path)
    slab_before = _slab_kb(path, before)
    try:
        held = path.client.ask("hold", 120, argvs=argvs, env=path.env)
        opened = sum(json.loads(line)["open"] if line else 0 for line in held["lines"])
        if opened != workload.idle:
            raise BenchError(f"only {opened} of {workload.idle} connections could be opened")
        after = path.client.ask("read")
        slab_after = _slab_kb(path, after)
    finally:
        path.client.ask("release", 60)
    figures = {"": (slab_after - slab_before) / opened, "opened/s": opened / held["seconds"]}
    return opened, figures, before, after, held["seconds"]


def _slab_kb(path: Path, client: Reading) -> float:
    """Return the slab memory of both ends' machines; if they are one, count it once."""
    server = path.server.ask("read")
    same = server["boot_id"] == client["boot_id"]
    return float(client["slab_kb"] if same else client["slab_kb"] + server["slab_kb"])


def _settled(path: Path) -> Reading:
    """Wait until the slab is stable: the kernel frees closed connections after a while."""
    deadline = time.monotonic() + SETTLE_S
    last: list[float] = []
    while True:
        reading = path.client.ask("read")
        last = [*last[-2:], reading["slab_kb"]]
        if len(last) == 3 and max(last) - min(last) < SETTLED_KB:
            return reading
        if time.monotonic() > deadline:
            return reading
        time.sleep(0.2)

