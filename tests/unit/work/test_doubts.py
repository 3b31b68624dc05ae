"""Steps that an outage left open: none stands in the way of the others for ever."""

from __future__ import annotations

import pytest

from driver.errors import Conflict, StoreUnavailable
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


def test_what_etcd_does_not_answer_stays() -> None:
    doubts, answers = Doubts("things"), [False]
    doubts.add("step", lambda: None if answers[0] else fail(AWAY), AWAY)
    with pytest.raises(StoreUnavailable):
        doubts.settle()
    answers[0] = True
    doubts.settle()


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
