"""Measures how long queries take, and how many are answered in a second, on slim and on Docker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.harness.measure import TICKS_PER_S, busy_ticks, turned
from bench.studies.names.hosts import (
    ASKERS,
    BRIDGE,
    FAR,
    NETWORKS,
    OUTSIDE,
    PLAIN,
    SLIM,
    Pair,
    Progress,
    Way,
    asker,
    near,
)

# A pause, since programs do not ask without end: 1,000 a second stay within a sandbox's share.
PAUSE_US = 1000
WINDOW = 32  # queries of one container under way at a time
ANOTHER_HOST, SAME_HOST = "slim, another host", "slim, the same host"
DOCKERS, DOCKERS_BRIDGE = "Docker's, slim.names=off", "Docker's, a bridge"
OUTSIDE_ON, OUTSIDE_OFF = "outside, slim", "outside, slim.names=off"
OUTSIDE_BRIDGE, DIRECT = "outside, a bridge", "outside, asked directly"
ALONE, TOGETHER, IN_TURN = "one container", "four containers", "one container, one at a time"

Runs = dict[str, list[dict[str, float]]]  # way -> a run for each round


def latencies(pair: Pair, rounds: int, count: int, progress: Progress) -> Runs:
    """Ask for each kind of name, one query after the other, on all ways in turn."""
    ways = {ANOTHER_HOST: Way(asker(SLIM), FAR), SAME_HOST: Way(asker(SLIM), near(SLIM)),
            DOCKERS: Way(asker(PLAIN), near(PLAIN)),
            DOCKERS_BRIDGE: Way(asker(BRIDGE), near(BRIDGE)),
            OUTSIDE_ON: Way(asker(SLIM), OUTSIDE), OUTSIDE_OFF: Way(asker(PLAIN), OUTSIDE),
            OUTSIDE_BRIDGE: Way(asker(BRIDGE), OUTSIDE),
            DIRECT: Way(asker(SLIM), OUTSIDE, str(pair.lab.gateway))}

    def run(name: str) -> dict[str, float]:
        found = pair.load("each", ways[name], count, PAUSE_US)
        return {"p50_ms": found["p50_us"] / 1000, "p99_ms": found["p99_us"] / 1000,
                "lost": found["lost"]}

    return _interleaved(ways, rounds, run, progress)


def rates(pair: Pair, rounds: int, seconds: float, progress: Progress) -> dict[str, Runs]:
    """Ask as fast as possible; queries a second of one container and of several, and CPU."""
    names = {SLIM: FAR, PLAIN: near(PLAIN), BRIDGE: near(BRIDGE)}
    titles = {SLIM: "slim", PLAIN: DOCKERS, BRIDGE: DOCKERS_BRIDGE}
    found: dict[str, Runs] = {}
    for what, name_of, containers, window in (
            (ALONE, names, 1, WINDOW), (IN_TURN, names, 1, 1), (TOGETHER, names, ASKERS, WINDOW),
            (f"{TOGETHER}, outside", dict.fromkeys(NETWORKS, OUTSIDE), ASKERS, WINDOW)):
        ways = {titles[network]: [Way(asker(network, number), name_of[network])
                                  for number in range(containers)] for network in NETWORKS}

        def run(way: str, ways: Mapping[str, list[Way]] = ways, window: int = window
                ) -> dict[str, float]:
            return _together(pair, ways[way], seconds, window)

        found[what] = _interleaved(
            ways, rounds, run, lambda text, what=what: progress(f"{text}, {what}"))  # type: ignore[misc]
    return found


def _together(pair: Pair, ways: list[Way], seconds: float, window: int) -> dict[str, float]:
    before = busy_ticks()
    with ThreadPoolExecutor(len(ways)) as pool:
        runs = list(pool.map(lambda way: pair.load("rate", way, seconds, window), ways))
    cpu_us = (busy_ticks() - before) * 1e6 / TICKS_PER_S
    count: int = sum(run["count"] for run in runs)
    return {"per_s": sum(run["count"] / run["seconds"] for run in runs),
            "cpu_us": cpu_us / max(count, 1), "lost": sum(run["lost"] for run in runs),
            "max_ms": max(run["max_us"] for run in runs) / 1000}


def _interleaved(ways: Mapping[str, Any], rounds: int, run: Callable[[str], dict[str, float]],
                 progress: Progress) -> Runs:
    found: Runs = {name: [] for name in ways}
    for number in range(rounds):
        for name in turned(list(ways), number):
            progress(f"round {number + 1}/{rounds}: {name}")
            found[name].append(run(name))
    return found
