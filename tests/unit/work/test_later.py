"""Jobs run by key, not before their time, and at most once for what was asked twice."""

from __future__ import annotations

import threading

import pytest

from driver.work.later import Later
from tests.support.run.wait import wait_until

WAIT_S = 10.0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_runs_in_order_of_time_and_only_when_due() -> None:
    clock, ran = Clock(), []
    later: Later[str] = Later(ran.append, threads=1, name="test", clock=clock)
    later.submit("late", 10.0)
    later.submit("early", 5.0)
    later.submit("now")
    later.start()
    try:
        wait_until(lambda: ran == ["now"], WAIT_S, "the first")
        clock.now_s = 20.0
        later.submit("wake")
        wait_until(lambda: ran == ["now", "early", "late", "wake"], WAIT_S, f"all, have {ran}")
    finally:
        later.stop()


def test_the_earlier_of_two_counts_and_cancelled_ones_do_not_run() -> None:
    ran: list[str] = []
    later: Later[str] = Later(ran.append, threads=1, name="test", clock=Clock())
    later.submit("twice", 10.0)
    later.submit("twice")
    later.submit("twice", 20.0)
    later.submit("cancelled")
    later.cancel("cancelled")
    later.submit("last")
    later.start()
    wait_until(lambda: ran[-1:] == ["last"], WAIT_S, "the last")
    later.stop()
    assert ran == ["twice", "last"]


def test_a_failing_job_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    def run(key: str) -> None:
        ran.append(key)
        raise ValueError(key)

    before = threading.active_count()
    later: Later[str] = Later(run, threads=1, name="test")
    later.start()
    later.submit("a")
    later.submit("b")
    wait_until(lambda: ran == ["a", "b"], WAIT_S, "both")
    later.stop()
    later.submit("c")
    assert ran == ["a", "b"]
    assert threading.active_count() == before
    assert "job a failed" in caplog.text


def test_draining_runs_all_that_waits_and_waits_for_nothing() -> None:
    ran: list[str] = []
    busy, go_on = threading.Event(), threading.Event()

    def run(key: str) -> None:
        if key == "first":
            busy.set()
            go_on.wait(WAIT_S)
        ran.append(key)

    later: Later[str] = Later(run, threads=1, name="test", clock=Clock())
    later.submit("first")
    later.submit("due")
    later.submit("not yet", 5.0)
    later.submit("cancelled", 1.0)
    later.cancel("cancelled")
    later.start()
    assert busy.wait(WAIT_S)
    threading.Timer(0.05, go_on.set).start()
    later.stop(drain=True)
    assert ran == ["first", "due", "not yet"]
