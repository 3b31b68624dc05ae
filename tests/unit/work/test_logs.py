"""A fault that stands is told once an hour; anything else whenever it happens.

With the real logging module, and a handler that keeps what comes through.
"""

from __future__ import annotations

import json
import logging
import sys

import pytest

from driver.work import logs
from driver.work.logs import AGAIN_S, KEPT, STANDING, Fields, StandingOnce, as_logfmt


class Log:
    """A logger whose lines that come through are kept."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lines: list[str] = []
        self.logger = logging.Logger("test")
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        handler.addFilter(StandingOnce(lambda: self.now_s))
        self.logger.addHandler(handler)

    def stands(self, text: str) -> None:
        self.logger.error("%s", text, extra=STANDING)


@pytest.fixture
def log() -> Log:
    return Log()


def test_what_stands_is_told_once_an_hour(log: Log) -> None:
    for log.now_s in (0, 5, AGAIN_S - 1):
        log.stands("a is garbage")
        log.stands("b is garbage")
    assert log.lines == ["a is garbage", "b is garbage"]
    log.now_s = AGAIN_S
    log.stands("a is garbage")
    assert log.lines[2:] == ["a is garbage"]


def test_what_happens_is_told_each_time(log: Log) -> None:
    for _ in range(3):
        log.logger.error("a call failed")
    assert len(log.lines) == 3


def test_another_fault_of_the_same_record_is_told(log: Log) -> None:
    log.stands("a is garbage")
    log.stands("a has schema 2")
    assert len(log.lines) == 2


def test_it_does_not_grow_for_ever(log: Log) -> None:
    for number in range(KEPT + 1):
        log.stands(str(number))
    log.stands("0")
    log.stands(str(KEPT))
    assert log.lines[KEPT:] == [str(KEPT), "0"]


def record(message: str, *arguments: object, trace: bool = False) -> logging.LogRecord:
    error = None
    if trace:
        try:
            raise ValueError('no "good"')
        except ValueError:
            error = sys.exc_info()
    made = logging.LogRecord("driver.x", logging.WARNING, "x.py", 1, message, arguments, error)
    made.created = 1_764_528_000.25
    return made


def test_logfmt() -> None:
    form = Fields(as_logfmt).format
    head = "time=2025-11-30T18:40:00.250+00:00 level=warning logger=driver.x "
    assert form(record("ok")) == head + "msg=ok"
    assert form(record("")) == head + 'msg=""'
    assert form(record("a=%s", 'b "c"\n\x1b[1m')) == head + r'msg="a=b \"c\"\n\u001b[1m"'
    trace = form(record("failed", trace=True))
    assert "\n" not in trace
    assert trace.startswith(head + 'msg=failed error="Traceback')


def test_json() -> None:
    line = Fields(json.dumps).format(record("a \n%s", "é", trace=True))
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["logger"], found["msg"]) == ("warning", "driver.x", "a \né")
    assert found["error"].endswith('ValueError: no "good"')


@pytest.mark.parametrize("form", logs.FORMATS)
def test_each_format_is_one_that_begin_knows(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: list[logging.Handler] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **given: handlers.extend(given["handlers"]))
    logs.begin("INFO", form)
    assert "ok" in handlers[0].format(record("ok"))
