"""Waiting for a condition instead of for time.  Knows no part of the driver."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SELDOM_S = 0.5  # the longest pause between two questions


def wait_until(predicate: Callable[[], T], timeout_s: float, what: str, every_s: float = 0.02) -> T:
    """Return `predicate()` as soon as it is true, or a tenth of the time waited later.

    Error: AssertionError naming `what` and the last value after `timeout_s`.
    """
    began_s = time.monotonic()
    deadline_s = began_s + timeout_s
    while True:
        asked_s = time.monotonic()
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"not within {timeout_s} s: {what} (last: {value!r})")
        # What is dear to ask is asked less often: it may be what keeps the answer from coming, and
        # what other tests wait for.  A quarter of the time at most goes into asking.
        now_s = time.monotonic()
        time.sleep(max(every_s, 3 * (now_s - asked_s), min((now_s - began_s) / 10, SELDOM_S)))
