"""Parses what load programs print; an output without figures is an error.  Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from bench.harness.errors import BenchError


@dataclass(frozen=True)
class Outcome:
    """The units of work done, and the run's figures by key ("" is the main one)."""

    units: float
    figures: dict[str, float]


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise BenchError(f"no {pattern!r} in what the program printed:\n{text[-1500:]}")
    return float(found[1])


def netbench(text: str) -> Outcome:
    """Units are transactions; latencies are in microseconds."""
    done = json.loads(text)
    if not done["count"]:
        raise BenchError(f"netbench finished nothing: {text}")
    return Outcome(done["count"], {
        "": done["count"] / done["seconds"], "p50": done["p50_us"], "p99": done["p99_us"],
        "p99.9": done["p999_us"], "connect p50": done["connect_p50_us"],
        "connect p99": done["connect_p99_us"]})


def gigabits(text: str) -> Outcome:
    """Units are megabytes received; the main figure is in Gbit/s."""
    done = json.loads(text)
    return Outcome(done["bytes"] / 1e6, {"": done["bytes"] * 8 / done["seconds"] / 1e9})


def messages(text: str) -> Outcome:
    """Units are messages received; the main figure is their number per second."""
    done = json.loads(text)
    return Outcome(done["messages"], {"": done["messages"] / done["seconds"]})


def wrk(text: str) -> Outcome:
    """Units are requests without those answered by an error."""
    if re.search("Socket errors|Non-2xx", text):
        raise BenchError(f"wrk met errors:\n{text[-1500:]}")
    return Outcome(_number(r"(\d+) requests in", text), {
        "": _number(r"Requests/sec:\s+([\d.]+)", text),
        "p50": _duration_us("50%", text), "p99": _duration_us("99%", text)})


def _duration_us(share: str, text: str) -> float:
    found = re.search(rf"^\s+{share}\s+([\d.]+)(us|ms|s)\s*$", text, re.MULTILINE)
    if not found:
        raise BenchError(f"wrk printed no {share}:\n{text[-1500:]}")
    return float(found[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[found[2]]


def memcaslap(text: str) -> Outcome:
    """Units are gets and sets; latencies are averages in microseconds."""
    latency = text.rpartition("Total Statistics (")[2]
    return Outcome(_number(r"Ops: (\d+)", text), {
        "": _number(r"TPS: (\d+)", text), "mean": _number(r"Avg:\s+([\d.]+)", latency)})


def pgbench(text: str) -> Outcome:
    """Units are transactions; latencies are averages in microseconds, without connecting."""
    if _number(r"number of failed transactions: (\d+)", text):
        raise BenchError(f"pgbench: transactions failed:\n{text[-1500:]}")
    return Outcome(_number(r"actually processed: (\d+)", text), {
        "": _number(r"tps = ([\d.]+)", text),
        "mean": _number(r"latency average = ([\d.]+) ms", text) * 1e3})


def redis_benchmark(text: str) -> Outcome:
    """Units are requests; latencies are in microseconds."""
    shown = re.findall(r"^\s+avg\s+min\s+p50\s+p95\s+p99\s+max\s*\n\s+(.+)$", text, re.MULTILINE)
    if not shown or "rror" in text:
        raise BenchError(f"redis-benchmark printed errors, or no figures:\n{text[-1500:]}")
    _, _, p50, _, p99, _ = (float(ms) * 1e3 for ms in shown[-1].split())
    return Outcome(_number(r"(\d+) requests completed in", text), {
        "": _number(r"throughput summary: ([\d.]+)", text), "p50": p50, "p99": p99})


def nothing(text: str) -> Outcome:
    """Parse nothing: no program measures this workload."""
    raise BenchError(f"unexpected output: {text}")
