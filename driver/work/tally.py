"""Counts how often something was done and how long it took, by a few names: a histogram for each.

It costs a microsecond an entry and keeps no entry, so it is always on; nobody need look.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

Names = tuple[str, ...]

# Upper bounds in seconds: from a read of etcd on the same host to the limit of a call.
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
NAMES_MAX: Final = 500  # names come from the code; this is against a mistake


@dataclass
class Durations:
    """How many durations there were up to each bound, above the last one, and their sum."""

    bounds_s: Sequence[float] = BOUNDS_S
    counts: list[int] = field(default_factory=list)  # not cumulative; the last: above all bounds
    sum_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds_s) + 1)

    @property
    def count(self) -> int:
        """Return how many there were in all."""
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        """Enter one."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def plus(self, other: Durations) -> Durations:
        """Return both together; they have the same bounds."""
        return Durations(self.bounds_s, [a + b for a, b in zip(
            self.counts, other.counts, strict=True)], self.sum_s + other.sum_s)


class Tally:
    """Durations by names.  Thread-safe."""

    def __init__(self, bounds_s: Sequence[float] = BOUNDS_S) -> None:
        """bounds_s: in ascending order."""
        self._bounds_s = bounds_s
        self._lock = threading.Lock()
        self._durations: dict[Names, Durations] = {}

    def add(self, seconds: float, *names: str) -> None:
        """Enter one duration.  The names must be of a small set; what is beyond it is left out."""
        with self._lock:
            found = self._durations.get(names)
            if found is None:
                if len(self._durations) >= NAMES_MAX:
                    return
                found = self._durations[names] = Durations(self._bounds_s)
            found.add(seconds)

    def read(self) -> Mapping[Names, Durations]:
        """Return a copy of all."""
        with self._lock:
            return {names: Durations(found.bounds_s, list(found.counts), found.sum_s)
                    for names, found in self._durations.items()}
