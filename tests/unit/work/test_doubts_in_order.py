"""driver/work/doubts.py: steps left open are done in order, once, and never stand in the way."""

from __future__ import annotations

import threading

import pytest

from driver.errors import Conflict, StoreUnavailable
from driver.work import deadline
from driver.work.doubts import Doubts

AWAY = StoreUnavailable("away")


def test_in_order_and_once() -> None:
    done: list[int] = []
    doubts = Doubts("things")
    for n in range(3):
        doubts.add(str(n), lambda n=n: done.append(n), AWAY)  # type: ignore[misc]
    doubts.settle()
    doubts.settle()
    assert done == [0, 1, 2]


def test_what_fails_is_kept_with_all_behind_it() -> None:
    done: list[str] = []
    away = [True]

    def step() -> None:
        if away[0]:
            raise StoreUnavailable("away")
        done.append("first")

    doubts = Doubts("things")
    doubts.add("step", step, AWAY)
    doubts.add("second", lambda: done.append("second"), AWAY)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="away"):
            doubts.settle()
    assert done == []
    away[0] = False
    doubts.settle()
    assert done == ["first", "second"]


def test_a_hopeless_step_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    def step() -> None:
        raise Conflict("never")

    doubts = Doubts("things")
    doubts.add("step", step, AWAY)
    doubts.settle()
    doubts.settle()
    assert caplog.text.count("never") == 1


def test_others_wait_for_the_one_that_settles_but_not_for_ever() -> None:
    entered, leave = threading.Event(), threading.Event()

    def step() -> None:
        entered.set()
        assert leave.wait(10)

    doubts = Doubts("things")
    doubts.add("step", step, AWAY)
    thread = threading.Thread(target=doubts.settle)
    thread.start()
    assert entered.wait(10)
    with deadline.limit(0.01), pytest.raises(StoreUnavailable, match="settled"):
        doubts.settle()
    leave.set()
    thread.join()
    doubts.settle()
