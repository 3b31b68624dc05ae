"""Tracks the time left for the request being served, for code that waits on the outside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class _Time:
    end_s: float  # monotonic
    seconds: float  # that a renewal gives
    last_s: float  # monotonic; no renewal goes beyond


_time: ContextVar[_Time | None] = ContextVar("slim_deadline", default=None)


@contextmanager
def limit(seconds: float, *, at_most_s: float = 0.0) -> Iterator[None]:
    """Give everything inside `seconds` in total; an inner limit can only shorten an outer one.

    at_most_s: the total including renewals; 0: there are no renewals.
    """
    now_s, outer = time.monotonic(), _time.get()
    last_s = now_s + max(seconds, at_most_s)
    if outer is not None:
        last_s = min(last_s, outer.end_s)
    token = _time.set(_Time(min(now_s + seconds, last_s), seconds, last_s))
    try:
        yield
    finally:
        _time.reset(token)


def renew() -> None:
    """Restart the time: there was an answer, and the wait for the next one begins."""
    left = _time.get()
    if left is not None:
        left.end_s = max(left.end_s, min(time.monotonic() + left.seconds, left.last_s))


def remaining_s(at_most_s: float) -> float:
    """Return the seconds left, never more than `at_most_s` and never below zero."""
    left = _time.get()
    return at_most_s if left is None else max(0.0, min(at_most_s, left.end_s - time.monotonic()))
