"""Tests that durations are counted by their names, in their buckets, and that names are bounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from driver.work.tally import NAMES_MAX, Durations, Tally


def test_durations_by_name_and_bucket() -> None:
    tally = Tally((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        tally.add(seconds, "read", "ok")
    tally.add(0.2, "read", "error")
    found = tally.read()
    assert found["read", "ok"] == Durations((0.1, 1.0), [2, 1, 1], 7.65)
    assert found["read", "error"].count == 1
    assert found["read", "ok"].plus(found["read", "error"]).counts == [2, 2, 1]


def test_what_was_read_does_not_change() -> None:
    tally = Tally()
    tally.add(1.0)
    found = tally.read()
    tally.add(1.0)
    assert found[()].count == 1
    assert tally.read()[()].count == 2


def test_names_are_bounded() -> None:
    tally = Tally()
    for number in range(NAMES_MAX + 10):
        tally.add(1.0, str(number))
    tally.add(1.0, "0")
    assert len(tally.read()) == NAMES_MAX
    assert tally.read()["0",].count == 2


def test_nothing_is_lost_between_threads() -> None:
    tally = Tally()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: tally.add(0.5, "a"), range(4000)))
    assert tally.read()["a",].count == 4000
