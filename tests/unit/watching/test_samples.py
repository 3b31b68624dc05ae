"""Tests when this host is looked at: while somebody asks, and in a small share of the time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from driver.errors import DatapathError
from driver.model import HostId
from driver.services.ports import Summary
from driver.services.watching import samples
from driver.services.watching.samples import Samples
from tests.support.run.wait import wait_until

LONG_S = 20


class Here:
    """Stands in for services.watching.here.Here."""

    def __init__(self) -> None:
        self.taken = self.anew = 0
        self.took_s = 0.0
        self.now_s = 1000.0
        self.error = ""
        self.looked = threading.Event()

    def clock(self) -> float:
        return self.now_s

    def begin_anew(self) -> None:
        self.anew += 1

    def take(self) -> Summary:
        self.taken += 1
        self.now_s += self.took_s
        self.looked.set()
        if self.error:
            raise DatapathError(self.error)
        return Summary(HostId("h"), str(self.taken))


@pytest.fixture
def here() -> Here:
    return Here()


@pytest.fixture
def running(here: Here, monkeypatch: pytest.MonkeyPatch) -> Iterator[Samples]:
    monkeypatch.setattr(samples, "EVERY_S", 0.01)
    made = Samples(here, here.clock)  # type: ignore[arg-type]
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_nothing_is_taken_until_somebody_asks_and_nothing_after(here: Here, running: Samples
                                                                ) -> None:
    wait_until(lambda: here.anew == 1, LONG_S, "it sleeps")
    assert here.taken == 0
    assert running.ask() == (None, "")
    wait_until(lambda: running.latest() is not None and here.taken > 2, LONG_S, "samples")
    here.now_s += samples.LINGER_S + 1
    wait_until(lambda: here.anew == 2, LONG_S, "it sleeps again")
    assert running.latest() is None


def test_others_watch(here: Here, running: Samples) -> None:
    running.watched(True)
    wait_until(lambda: here.taken > 2, LONG_S, "samples")
    running.watched(False)
    wait_until(lambda: here.anew == 2, LONG_S, "it sleeps again")


def test_what_takes_long_is_done_rarely(here: Here, running: Samples) -> None:
    here.took_s = 0.2
    running.ask()
    wait_until(lambda: running.latest() is not None, LONG_S, "a sample")
    latest = running.latest()
    assert latest is not None
    assert latest.every_s == pytest.approx(0.2 / samples.SHARE)


def test_a_failure_is_said_and_what_was_known_stays(here: Here, running: Samples) -> None:
    running.ask()
    wait_until(lambda: running.latest() is not None, LONG_S, "a sample")
    here.error = "no map"
    wait_until(lambda: running.ask()[1] == "no map", LONG_S, "that is said")
    assert running.latest() is not None
    here.error = ""
    wait_until(lambda: running.ask()[1] == "", LONG_S, "that is over")
