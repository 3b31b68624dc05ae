"""Waits for a condition instead of for time."""

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
        # Ask an expensive question less often, so that asking takes a quarter of the time at most:
        # it may itself delay the answer, and other tests.
        now_s = time.monotonic()
        time.sleep(max(every_s, 3 * (now_s - asked_s), min((now_s - began_s) / 10, SELDOM_S)))
