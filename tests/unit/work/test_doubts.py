"""driver/work/doubts.py: steps left open are done in order, once, and never stand in the way."""

from __future__ import annotations

import threading

import pytest

from driver.errors import Conflict, StoreUnavailable
from driver.work import deadline
from driver.work.doubts import Doubts
from driver.work.ledger import Ledger

AWAY = StoreUnavailable("away")


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [Conflict("held by another"), KeyError("a mistake")])
def test_what_can_never_be_done_is_given_up(
        error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    doubts, done = Doubts("things"), []
    doubts.add("first", lambda: fail(error), AWAY)
    doubts.add("second", lambda: done.append(1), AWAY)
    doubts.settle()
    assert done == [1]
    assert "given up" in caplog.text
    doubts.settle()
    assert done == [1]


def test_the_same_step_is_kept_once() -> None:
    """A removal that is repeated while etcd is away leaves the same step each time."""
    doubts, done = Doubts("things"), []
    doubts.add("delete a", lambda: done.append("first a"), AWAY)
    doubts.add("delete b", lambda: done.append("b"), AWAY)
    doubts.add("delete a", lambda: done.append("second a"), AWAY)
    doubts.settle()
    assert done == ["second a", "b"]


def test_without_a_request_they_are_settled_all_the_same() -> None:
    ledger, done = Ledger(), []
    answers = [False]
    doubts = Doubts("things", ledger)
    doubts.add("step", lambda: done.append(1) if answers[0] else fail(AWAY), AWAY)
    ledger.run()
    (step,) = ledger.outstanding()
    assert (step.what, step.error, step.attempts) == (
        "settle what etcd did not confirm of things", "away", 2)
    answers[0] = True
    ledger.run()
    assert done == [1]
    assert ledger.outstanding() == []


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
