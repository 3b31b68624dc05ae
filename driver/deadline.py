"""Owns the time that is left for the request being served, for whoever waits on the outside.

It must not know requests or what is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_end_s: ContextVar[float | None] = ContextVar("slim_deadline", default=None)


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Everything inside has `seconds` in all; an inner limit can only shorten an outer one."""
    end_s = time.monotonic() + seconds
    outer = _end_s.get()
    token = _end_s.set(end_s if outer is None else min(end_s, outer))
    try:
        yield
    finally:
        _end_s.reset(token)


def remaining_s(at_most_s: float) -> float:
    """Return the seconds left, never more than `at_most_s` and never below zero."""
    end_s = _end_s.get()
    return at_most_s if end_s is None else max(0.0, min(at_most_s, end_s - time.monotonic()))
