"""Tests that a part that fails or hangs is left out, is counted, and spoils no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from driver.errors import StoreUnavailable
from driver.metrics.families import Reading
from driver.metrics.reading import PART_S, Reader
from driver.work import deadline
from tests.support.run.wait import wait_until

SHORT_S = 0.2


def one(value: float = 1.0) -> Reading:
    return {"slim_endpoints": {(): value}}


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def held(gate: threading.Event) -> Callable[[], Reading]:
    def part() -> Reading:
        gate.wait()
        return one()

    return part


def test_all_parts() -> None:
    assert Reader({"a": one, "b": lambda: one(2.0)}).read() == (
        {"a": one(), "b": one(2.0)}, {"a": 0, "b": 0})


def test_a_part_that_fails_is_absent_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    failing = True

    def part() -> Reading:
        if failing:
            raise StoreUnavailable("etcd is away")
        return one()

    reader = Reader({"a": part, "b": one})
    assert reader.read() == ({"b": one()}, {"a": 1, "b": 0})
    assert reader.read() == ({"b": one()}, {"a": 2, "b": 0})
    assert [each.getMessage() for each in caplog.records] == [
        "metrics: a is left out: etcd is away"], "once, not at each scrape"
    failing = False
    assert reader.read() == ({"a": one(), "b": one()}, {"a": 2, "b": 0})
    failing = True
    reader.read()
    assert len(caplog.records) == 2


def test_a_mistake_of_slims_is_logged_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    def part() -> Reading:
        raise ZeroDivisionError

    assert Reader({"a": part}).read() == ({}, {"a": 1})
    assert caplog.records[0].exc_info


def test_a_part_that_hangs_holds_up_one_reading(
        gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader({"before": one, "hangs": held(gate), "after": one}, SHORT_S)
    assert reader.read() == ({"before": one()}, {"before": 0, "hangs": 1, "after": 1})
    assert "hangs takes too long" in caplog.text
    for errors in (2, 3):  # not asked again, and so the one behind it is
        assert reader.read() == ({"before": one(), "after": one()},
                                 {"before": 0, "hangs": errors, "after": 1})
    gate.set()
    wait_until(lambda: "hangs" in reader.read()[0], 10, "the part is asked again")


def test_who_is_late_changes_nothing_that_was_told(gate: threading.Event) -> None:
    reader = Reader({"hangs": held(gate)}, SHORT_S)
    found, errors = reader.read()
    gate.set()
    wait_until(lambda: reader.read()[0], 10, "the part is through")
    assert (found, errors) == ({}, {"hangs": 1})


def test_several_readings_at_once() -> None:
    """Each asks all parts: none is taken for one that hangs because another reading is in it."""
    both = threading.Barrier(2, timeout=10)

    def part() -> Reading:
        both.wait()
        return one()

    reader = Reader({"a": part, "b": one}, 20.0)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(reader.read) for _ in range(2)]
        assert [each.result(30) for each in found] == [
            ({"a": one(), "b": one()}, {"a": 0, "b": 0})] * 2


def test_parts_have_a_deadline_of_their_own() -> None:
    left: list[float] = []

    def part() -> Reading:
        left.append(deadline.remaining_s(1000.0))
        return one()

    Reader({"a": part, "b": part}).read()
    assert all(0 < each <= PART_S for each in left)
    assert len(left) == 2


def test_nothing_runs_between_readings() -> None:
    reader = Reader({"a": one})
    reader.read()
    wait_until(lambda: all(each.name != "metrics" for each in threading.enumerate()), 10,
               "its thread has ended")
