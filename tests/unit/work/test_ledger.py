"""driver/work/ledger.py: a step is repeated until it has worked, and shown for as long as not."""

from __future__ import annotations

import threading

import pytest

from driver.errors import LinkError, StoreUnavailable
from driver.work import ledger as module
from driver.work.ledger import Ledger, Page, growing_s
from tests.support.run.wait import wait_until

WAIT_S = 10.0
NOON_S = 1_764_500_000.0
AWAY = StoreUnavailable("etcd is away")


class Worker:
    """Does what it is asked for unless it is told to fail."""

    def __init__(self, ledger: Ledger) -> None:
        self.error: Exception | None = None
        self.done: list[tuple[str, int]] = []
        self.page: Page[str, int] = ledger.page("count", self.act)

    def act(self, key: str, value: int) -> None:
        if self.error is not None:
            raise self.error
        self.done.append((key, value))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(wall=lambda: NOON_S, pause_s=lambda _failed, _error: 0.0)


@pytest.fixture
def worker(ledger: Ledger) -> Worker:
    return Worker(ledger)


def test_a_step_is_repeated_until_it_has_worked(ledger: Ledger, worker: Worker,
                                                caplog: pytest.LogCaptureFixture) -> None:
    worker.error = LinkError("the device is busy")
    worker.page.put("a", 1)
    for _ in range(3):
        ledger.run()
    (step,) = ledger.outstanding()
    assert (step.what, step.since_s, step.attempts, step.error) == (
        "count a", NOON_S, 3, "the device is busy")
    assert caplog.text.count("the device is busy") == 1, "the log says only what is new"
    worker.error = None
    assert ledger.run()
    assert worker.done == [("a", 1)]
    assert ledger.outstanding() == []
    assert not ledger.run()


def test_what_has_not_failed_yet_is_not_shown(ledger: Ledger, worker: Worker) -> None:
    worker.page.put("a", 1)
    assert ledger.outstanding() == []
    assert ledger.describe() == ""
    assert ledger.counts() == {"count": 0}


def test_the_status_names_the_oldest_and_counts_the_rest() -> None:
    now_s = [NOON_S]
    ledger = Ledger(wall=lambda: now_s[0])
    worker = Worker(ledger)
    for number in range(7):
        worker.page.note(str(number), number, AWAY)
        now_s[0] += 60
    assert ledger.counts() == {"count": 7}
    said = ledger.describe()
    assert said.startswith("count 0 since 20")
    assert "(1 attempts; etcd is away)" in said
    assert said.endswith("; 2 more")


def test_what_fails_again_and_again_is_stuck(ledger: Ledger, worker: Worker) -> None:
    worker.error = LinkError("the device is busy")
    worker.page.put("a", 1)
    for _ in range(len(module.PAUSES_S)):
        ledger.run()
    assert not ledger.describe().startswith(module.STUCK)
    ledger.run()
    assert ledger.describe().startswith(f"{module.STUCK}: count a since 20")


def test_a_newer_step_takes_the_place_of_an_older_one(ledger: Ledger, worker: Worker) -> None:
    worker.page.put("a", 1)
    worker.page.put("b", 2)
    worker.page.put("a", 3)
    ledger.run()
    assert worker.done == [("a", 3), ("b", 2)]


def test_who_does_it_leaves_nothing_outstanding(ledger: Ledger, worker: Worker) -> None:
    with worker.page.attempt("a", 1):
        assert worker.page.get("a") == 1
    assert worker.page.values() == []
    assert not ledger.run()


def test_who_fails_at_it_learns_it_and_it_is_repeated(ledger: Ledger, worker: Worker) -> None:
    for _ in range(2):
        with pytest.raises(LinkError, match="no"), worker.page.attempt("a", 1):
            raise LinkError("no")
    assert worker.page.attempts("a") == 2
    ledger.run()
    assert worker.done == [("a", 1)]


def test_a_step_that_attempts_itself_is_counted_once(ledger: Ledger) -> None:
    """As a removal does, which dockerd may ask for at the same time."""
    def act(key: str, value: int) -> None:
        with page.attempt(key, value):
            raise LinkError("no")

    page: Page[str, int] = ledger.page("remove", act)
    page.put("a", 1)
    ledger.run()
    assert page.attempts("a") == 1


def test_what_is_noted_during_a_step_outlives_it(ledger: Ledger) -> None:
    def act(key: str, _value: int) -> None:
        if failing:
            page.note(key, 1, LinkError("the map is full"))

    failing = True
    page: Page[str, int] = ledger.page("enter", act)
    page.put("a", 1)
    ledger.run()
    assert [step.error for step in ledger.outstanding()] == ["the map is full"]
    failing = False
    ledger.run()
    assert ledger.outstanding() == []


def test_what_is_dropped_is_not_done(ledger: Ledger, worker: Worker) -> None:
    worker.page.put("a", 1)
    assert worker.page.drop("a") == 1
    assert worker.page.drop("a") is None
    ledger.run()
    assert worker.done == []


def test_what_is_dropped_while_it_fails_is_not_repeated(ledger: Ledger) -> None:
    def act(key: str, _value: int) -> None:
        page.drop(key)
        raise LinkError("no")

    page: Page[str, int] = ledger.page("remove", act)
    page.put("a", 1)
    ledger.run()
    assert not ledger.run()


def test_a_mistake_of_ours_ends_no_thread_and_is_shown(
        ledger: Ledger, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.error = KeyError("a mistake")
    ledger.start()
    try:
        worker.page.put("a", 1)
        wait_until(lambda: worker.page.attempts("a") > 2, WAIT_S, "attempts")
        worker.error = None
        wait_until(lambda: worker.done == [("a", 1)], WAIT_S, "it to be done")
    finally:
        ledger.stop()
    assert caplog.text.count("Traceback") == 1


def test_what_waits_when_the_driver_stops(ledger: Ledger) -> None:
    done: list[str] = []
    page: Page[str, None] = ledger.page("tear down", lambda key, _: done.append(key), drain=True)
    other: Page[str, None] = ledger.page("tell", lambda key, _: done.append(key))
    before = threading.active_count()
    ledger.start()
    page.put("later", None, 1000.0)
    other.put("never", None, 1000.0)
    ledger.stop()
    assert done == ["later"]
    assert threading.active_count() == before


def test_pauses_grow_and_no_two_are_alike() -> None:
    error = LinkError("no")
    pauses = [growing_s(failed, error) for failed in range(8)]
    for pause, middle in zip(pauses, (*module.PAUSES_S, *3 * (module.AGAIN_S,)), strict=True):
        assert 0.75 * middle <= pause <= 1.25 * middle
    assert len({growing_s(9, error) for _ in range(20)}) > 1
    assert growing_s(9, AWAY) <= 1.25 * module.OUTAGE_S, "an outage ends when it ends"
