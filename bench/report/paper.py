"""Lists the Slim paper's figures, as changes against the Weave overlay on the authors' machines.

Zhuo et al., "Slim: OS Kernel Support for a Low-Overhead Container Overlay Network", NSDI '19.
Charts and tables must say that these figures are the paper's, from other machines.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Zhuo et al., NSDI '19"
VALUE, LATENCY, CPU = "value", "latency", "cpu"


@dataclass(frozen=True)
class Claim:
    """A change in percent, and which of our rows stands beside it."""

    title: str
    percent: float  # the middle, where the paper gives a range
    workload: str
    figure: str
    kind: str
    shown: str = ""  # the range, where the paper gives one


CLAIMS = (
    Claim("memcached\nthroughput", 71, "memcached", "", VALUE),
    Claim("memcached\nlatency", -42, "memcached", "mean", LATENCY),
    Claim("memcached\nCPU", -56, "memcached", "", CPU),
    Claim("nginx\nCPU", -23, "nginx, keep-alive", "", CPU, "-22, -24 %"),
    Claim("PostgreSQL\nCPU", -22, "postgresql", "", CPU),
    Claim("Kafka (ours: NATS)\nCPU", -10, "nats", "", CPU),
)
