"""Attempts at what others may be faster at: how often, with what pauses, and for how long."""

from __future__ import annotations

import pytest

from driver.work import contended, deadline


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each pause is as long as it may be, and takes no time."""
    taken: list[float] = []
    monkeypatch.setattr(contended.random, "uniform", lambda _, most: most)
    monkeypatch.setattr(contended.time, "monotonic", lambda: sum(taken))
    monkeypatch.setattr(contended.time, "sleep", taken.append)
    return taken


@pytest.mark.parametrize("in_all_s", [4.5, 20.0])
def test_pauses_grow_to_a_bound_until_the_time_is_over(pauses: list[float], in_all_s: float
                                                       ) -> None:
    """Each answer renews the time for the next one."""
    with deadline.limit(4.5, at_most_s=in_all_s):
        assert [*contended.attempts()] == list(range(len(pauses) + 1))
    assert pauses[:5] == [0.02, 0.08, 0.32, 0.8, 0.8]
    assert in_all_s - contended.LONGEST_S <= sum(pauses) < in_all_s


def test_without_a_deadline_it_ends_too(pauses: list[float]) -> None:
    assert [*contended.attempts()] == list(range(len(pauses) + 1))
    assert contended.LIMIT_S - contended.LONGEST_S <= sum(pauses) < contended.LIMIT_S


def test_what_was_recalled_is_read_again_at_once(pauses: list[float]) -> None:
    attempts = contended.attempts(recalled=True)
    assert [next(attempts) for _ in range(2)] == [0, 1]
    assert pauses == []
    next(attempts)
    assert pauses == [0.02]


def test_one_attempt_is_made_when_no_time_is_left() -> None:
    with deadline.limit(0):
        assert [*contended.attempts()] == [0]
