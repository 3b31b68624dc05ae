"""Tests the benchmark's arithmetic."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.report import stats

VALUES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=15)


def test_quantiles_are_interpolated() -> None:
    assert stats.quantile([4, 1, 3, 2], 0) == 1
    assert stats.quantile([4, 1, 3, 2], 1) == 4
    assert stats.quantile([4, 1, 3, 2], 0.5) == 2.5
    assert stats.quantile([7], 0.3) == 7


def test_the_spread_is_the_middle_half_beside_the_median() -> None:
    assert stats.spread([90, 95, 100, 105, 110]) == pytest.approx(0.1)
    assert stats.spread([5, 5, 5]) == 0
    assert stats.spread([0, 0]) == 0


def test_one_wild_run_of_seven_does_not_move_a_ratio() -> None:
    found = stats.paired_ratio([98, 98, 98, 98, 98, 98, 5], [100] * 7)
    assert found.value == pytest.approx(0.98)
    assert found.high == pytest.approx(0.98)


def test_what_a_round_has_in_common_stays_out_of_the_ratio() -> None:
    """If the machine becomes slower and slower, pairs show what each side's median does not."""
    host = [100, 80, 60, 40, 20, 10, 5]
    found = stats.paired_ratio([value * 0.9 for value in host], host)
    assert (found.value, found.low, found.high) == pytest.approx((0.9, 0.9, 0.9))


def test_a_difference_is_that_of_runs_of_the_same_round() -> None:
    found = stats.paired_difference([10, 20.5, 31], [9.5, 20, 30.5])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


@settings(deadline=None, max_examples=25)
@given(VALUES)
def test_the_interval_holds_the_ratio_and_is_the_same_each_time(values: list[float]) -> None:
    host = [2.0] * len(values)
    found = stats.paired_ratio(values, host)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(statistics.median(values) / 2)
    assert stats.paired_ratio(values, host) == found


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1], [1, 2]), ([1], [0])])
def test_nothing_to_compare(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"values|zip"):
        stats.paired_ratio(ours, theirs)
