"""Steps that an outage left open: none stands in the way of the others for ever."""

from __future__ import annotations

import pytest

from driver.errors import Conflict, StoreUnavailable
from driver.work.doubts import Doubts


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [Conflict("held by another"), KeyError("a mistake")])
def test_what_can_never_be_done_is_given_up(
        error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    doubts, done = Doubts(), []
    doubts.add(lambda: fail(error))
    doubts.add(lambda: done.append(1))
    doubts.settle()
    assert done == [1]
    assert "given up" in caplog.text
    doubts.settle()
    assert done == [1]


def test_what_etcd_does_not_answer_stays() -> None:
    doubts, answers = Doubts(), [False]
    doubts.add(lambda: None if answers[0] else fail(StoreUnavailable("away")))
    with pytest.raises(StoreUnavailable):
        doubts.settle()
    answers[0] = True
    doubts.settle()
