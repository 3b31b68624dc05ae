"""Owns the form of one call: a function from a body's bytes to an answer.

It must not know HTTP or any particular call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from driver.api.codec import Fields, decode
from driver.api.messages import Answer

Request = TypeVar("Request")
Call = Callable[[bytes], Answer]


def with_request(decode_request: Callable[[Fields], Request],
                 answer: Callable[[Request], Answer]) -> Call:
    """Make a call that has arguments.  Its error for a bad body: InvalidRequest."""
    return lambda body: answer(decode_request(decode(body)))


def without_request(answer: Callable[[], Answer]) -> Call:
    """Make a call whose body is empty and not looked at."""
    return lambda _body: answer()
