"""Builds the form of one call: a function from a body's bytes to an answer.

A call with arguments decodes its body first; one without does not look at it.
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
    """Make a call with arguments.  The call's error for a bad body: InvalidRequest."""
    return lambda body: answer(decode_request(decode(body)))


def without_request(answer: Callable[[], Answer]) -> Call:
    """Make a call whose body is empty and ignored."""
    return lambda _body: answer()
