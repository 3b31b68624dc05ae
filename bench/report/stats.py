"""Computes medians, spread, and ratios with their uncertainty, from repeated measurements.

Differences, too.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """A median of ratios or differences, and the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def median(values: Sequence[float]) -> float:
    """Return the median.  Error: ValueError if there are no values."""
    if not values:
        raise ValueError("no values")
    return statistics.median(values)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie, interpolated."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def spread(values: Sequence[float]) -> float:
    """Return the width of the middle half as a share of the median: (q3 - q1) / median."""
    middle = median(values)
    return (quantile(values, 0.75) - quantile(values, 0.25)) / middle if middle else 0.0


def paired_ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 1) -> Ratio:
    """Median of the ratios of runs of the same round, with a bootstrap confidence interval.

    The bootstrap draws rounds with replacement, so that what affects both runs of a round (a busy
    neighbour, a warm cache) stays in its ratio.  Error: ValueError if the numbers of rounds differ
    or are 0.
    """
    return _bounded([a / b for a, b in zip(ours, theirs, strict=True) if b], seed)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 1) -> Ratio:
    """Median of the differences of runs of the same round, with an interval as paired_ratio's."""
    return _bounded([a - b for a, b in zip(ours, theirs, strict=True)], seed)


def _bounded(values: Sequence[float], seed: int) -> Ratio:
    middle = median(values)
    generator = random.Random(seed)  # noqa: S311 (same data, same interval)
    medians = [statistics.median(generator.choices(values, k=len(values)))
               for _ in range(RESAMPLES)]
    tail = (1 - CONFIDENCE) / 2
    return Ratio(middle, quantile(medians, tail), quantile(medians, 1 - tail))
