"""The time that is left for a request."""

from __future__ import annotations

import pytest

from driver.work import deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """[seconds]: now."""
    now = [100.0]
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now[0])
    return now


def test_without_a_limit(clock: list[float]) -> None:
    deadline.renew()
    assert deadline.remaining_s(7) == 7


def test_an_inner_limit_only_shortens(clock: list[float]) -> None:
    with deadline.limit(5):
        with deadline.limit(9, at_most_s=20):
            assert deadline.remaining_s(60) == 5
            deadline.renew()
            assert deadline.remaining_s(60) == 5
        clock[0] += 2
        with deadline.limit(1):
            assert deadline.remaining_s(60) == 1
        assert deadline.remaining_s(60) == 3
        assert deadline.remaining_s(2) == 2
        clock[0] += 9
        assert deadline.remaining_s(60) == 0
    assert deadline.remaining_s(60) == 60


def test_it_is_renewed_up_to_its_end(clock: list[float]) -> None:
    with deadline.limit(5, at_most_s=12):
        clock[0] += 4
        assert deadline.remaining_s(60) == 1
        deadline.renew()
        assert deadline.remaining_s(60) == 5
        clock[0] += 5
        deadline.renew()  # late: the call that had no time left was answered all the same
        assert deadline.remaining_s(60) == 3
        clock[0] += 3
        deadline.renew()
        assert deadline.remaining_s(60) == 0


def test_without_more_in_all_it_is_not_renewed(clock: list[float]) -> None:
    with deadline.limit(5):
        clock[0] += 4
        deadline.renew()
        assert deadline.remaining_s(60) == 1
