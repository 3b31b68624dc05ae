"""Tests that questions wait for each other, and not for ever."""

from __future__ import annotations

import threading

import pytest

from driver.errors import NotFound, SlimError
from driver.services.seeing.aside import Aside


def test_what_it_returns_and_raises() -> None:
    aside = Aside()
    assert aside.run(threading.current_thread) is not threading.current_thread()

    def fail() -> None:
        raise NotFound("nothing")

    with pytest.raises(NotFound, match="nothing"):
        aside.run(fail)
    assert aside.run(lambda: 1) == 1


def test_one_at_a_time_and_none_for_ever() -> None:
    aside, begun, end = Aside(turn_s=0.01, wait_s=0.05), threading.Event(), threading.Event()

    def slow() -> bool:
        begun.set()
        return end.wait(60)

    with pytest.raises(SlimError, match="no answer was found within"):
        aside.run(slow)
    assert begun.is_set()
    with pytest.raises(SlimError, match="another such question"):
        aside.run(lambda: 1)
    end.set()
    assert Aside(turn_s=60).run(lambda: 1) == 1
