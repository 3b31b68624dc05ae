"""Tests the one test of a host that has joined: when, how often, and what the log says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from driver.errors import Conflict
from driver.model import Host
from driver.services.ports import Participant, Round
from driver.services.testing import newcomer
from driver.services.testing.asking import Collected
from driver.services.testing.newcomer import ATTEMPTS, Newcomer
from driver.store.format import keys, records
from driver.store.kv.protocol import Put
from driver.store.rounds import EtcdRounds
from tests.support.fakes.kv import FakeKeyValue
from tests.support.run.wait import wait_until
from tests.unit.testing.rounds import changed, collected, participant

A, B = participant(1), participant(2)


class Answers:
    """In place of Asking."""

    def __init__(self, found: Collected, conflicts: int = 0) -> None:
        self.found = found
        self.conflicts = conflicts
        self.asked: list[Round] = []

    def ask(self, wanted: Round) -> Collected:
        self.asked.append(wanted)
        if len(self.asked) <= self.conflicts:
            raise Conflict("another test is under way")
        return self.found


@contextmanager
def started(monkeypatch: pytest.MonkeyPatch, answers: Answers | None = None,
            joined: Callable[[], bool | None] = lambda: True, kv: FakeKeyValue | None = None,
            live: Sequence[Participant] = (A, B)) -> Iterator[Newcomer]:
    monkeypatch.setattr(newcomer, "LOOK_S", 0.01)
    kv = kv or FakeKeyValue()
    kv.commit([], [Put(keys.host(each.host), records.encode(records.host_fields(
        Host(each.host, each.name, each.underlay)))) for each in live])
    made = Newcomer(A.host, "a", EtcdRounds(kv), joined, lambda: 0.0)
    if answers is not None:
        as_any: Any = made
        as_any._asking = answers
    made.start()
    try:
        yield made
    finally:
        made.stop()


def wait_said(caplog: pytest.LogCaptureFixture, words: str) -> str:
    wait_until(lambda: words in caplog.text, 10, words)
    assert len(caplog.records) == 1
    return caplog.records[0].levelname


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, newcomer.__name__)


def test_all_is_well(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers(collected(A, B))
    with started(monkeypatch, answers):
        assert wait_said(caplog, "1 other hosts were tested in") == "INFO"
    assert [(each.focus, each.one_way) for each in answers.asked] == [(A.host, False)]


def test_faults(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    found = changed(collected(A, B), A, B, heard={"passed": frozenset(), "syns": frozenset()})
    with started(monkeypatch, Answers(found)):
        assert wait_said(caplog, "b's own packet filter") == "WARNING"
    assert "; 1 more: `slim test`" in caplog.text


def test_others_may_test_first(monkeypatch: pytest.MonkeyPatch,
                               caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers(collected(A, B), conflicts=ATTEMPTS - 1)
    with started(monkeypatch, answers):
        wait_said(caplog, "all well")
    assert len({each.token for each in answers.asked}) == ATTEMPTS


def test_it_gives_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers(collected(A, B), conflicts=ATTEMPTS)
    with started(monkeypatch, answers):
        assert wait_said(caplog, "not tested: another test is under way") == "INFO"
    assert len(answers.asked) == ATTEMPTS


def test_a_host_that_was_here_before_does_not_test(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    answers = Answers(collected(A, B))

    def look() -> bool:
        looked.set()
        return False

    with started(monkeypatch, answers, look):
        assert looked.wait(10)
    assert not answers.asked


def test_it_waits_until_that_is_known(monkeypatch: pytest.MonkeyPatch,
                                           caplog: pytest.LogCaptureFixture) -> None:
    ready, looked = threading.Event(), threading.Event()
    answers = Answers(collected(A, B))

    def look() -> bool | None:
        looked.set()
        return ready.is_set() or None

    with started(monkeypatch, answers, look):
        assert looked.wait(10)
        assert not answers.asked
        ready.set()
        wait_said(caplog, "all well")


def test_alone_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch,
                                       caplog: pytest.LogCaptureFixture) -> None:
    """The other one has gone meanwhile."""
    answers = Answers(collected(A))
    with started(monkeypatch, answers):
        wait_until(lambda: bool(answers.asked), 10, "it asks")
    assert caplog.records == []


def test_the_first_host_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    answers = Answers(collected(A, B))

    def look() -> bool:
        looked.set()
        return True

    with started(monkeypatch, answers, look, live=(A,)):
        assert looked.wait(10)
    assert not answers.asked


def test_it_stops_at_once_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kv = FakeKeyValue()
    other = EtcdRounds(kv)
    begun = other.begin(Round(bytes(8), "x"))
    assert begun is not None
    with started(monkeypatch, kv=kv) as made:
        stopping = threading.Thread(target=made.stop)
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
    other.end(begun)
    assert [key for key in kv.store.entries if key.startswith(keys.ROOT + "test/")] == []
    assert kv.store.leases == {}
