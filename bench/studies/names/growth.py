"""Measures whether a driver grows with queries that it has answered, and containers that went."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from bench.studies.names.hosts import (
    ASKERS,
    FAR,
    NOBODY,
    OUTSIDE,
    SLIM,
    Pair,
    Progress,
    Way,
    asker,
    near,
    run,
    usage,
)

WARM = 0.1  # of all, before the first look that counts
BY_TCP = 0.1  # of the queries
WINDOW, BATCH = 64, 10
RUN_S = 2.0  # of a load program
LOOK_S = 5.0
STARTERS = 2  # containers that come at a time
LIMIT_S = 150.0  # a machine that is busy does less
SETTLE_S = 35.0  # the driver returns free memory every 30 s


def measure(pair: Pair, queries: int, containers: int, progress: Progress) -> dict[str, Any]:
    """Ask and have containers come and go, both at once; return what the driver had meanwhile."""
    before = asdict(usage(pair.here))
    warm = _Load(pair, int(queries * WARM), max(STARTERS, int(containers * WARM)), LIMIT_S * WARM)
    warm.run(progress)
    _settle(progress)
    warmed = asdict(usage(pair.here))
    load = _Load(pair, queries, containers, LIMIT_S)
    load.run(progress)
    _settle(progress)
    return {"before": before, "warm": warmed, "after": asdict(usage(pair.here)),
            "meanwhile": load.looks, "warm_queries": warm.queries, "queries": load.queries,
            "lost": load.lost, "warm_containers": warm.containers, "containers": load.containers,
            "seconds": load.seconds}


def _settle(progress: Progress) -> None:
    progress("until the driver has returned free memory")
    time.sleep(SETTLE_S)


class _Load:
    """Queries of all kinds, and containers that come and go."""

    def __init__(self, pair: Pair, queries: int, containers: int, limit_s: float) -> None:
        self.queries = self.lost = self.containers = 0
        self.looks: list[dict[str, float]] = []
        self.seconds = 0.0
        self._pair, self._wanted = pair, (queries, containers)
        self._lock = threading.Lock()  # of the counts
        self._end_s = time.monotonic() + limit_s

    def run(self, progress: Progress) -> None:
        """Do all of it; interrupted, end soon."""
        began_s = time.monotonic()
        queries, containers = self._wanted
        with ThreadPoolExecutor(ASKERS + STARTERS) as pool:
            jobs: list[Future[None]] = [
                *(pool.submit(self._ask, number, queries / ASKERS) for number in range(ASKERS)),
                *(pool.submit(self._start, number, containers // STARTERS)
                  for number in range(STARTERS))]
            try:
                while not all(job.done() for job in jobs):
                    progress(f"{self.queries:,} of {queries:,} queries, {self.containers} of "
                             f"{containers} containers")
                    time.sleep(LOOK_S)
                    self.looks.append({"queries": self.queries, "containers": self.containers,
                                       **asdict(usage(self._pair.here))})
            except BaseException:
                self._end_s = 0.0  # the pool waits for its jobs
                raise
        for job in jobs:
            job.result()
        self.seconds = time.monotonic() - began_s

    def _ask(self, number: int, wanted: float) -> None:
        known = f"{FAR},{near(SLIM)}"
        # By TCP only what is ours: the name server outside has none.
        for kind, names, share, width in (
                ("rate", f"{known},{OUTSIDE},{NOBODY}", 1 - BY_TCP, WINDOW),
                ("tcp", known, BY_TCP, BATCH)):
            done = 0
            while done < wanted * share and time.monotonic() < self._end_s:
                found = self._pair.load(kind, Way(asker(SLIM, number), names), RUN_S, width)
                done += found["count"]
                with self._lock:
                    self.queries += found["count"]
                    self.lost += found["lost"]

    def _start(self, number: int, wanted: int) -> None:
        name = f"goes-{number}"
        for _ in range(wanted):
            if time.monotonic() >= self._end_s:
                return
            run(self._pair.here, name)
            self._pair.here.docker("rm", "-f", name)
            with self._lock:
                self.containers += 1
