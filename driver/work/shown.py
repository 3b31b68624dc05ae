"""Makes texts for people: a long list in one line, and foreign text without control characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

NAMED: Final = 5


def some_of(texts: Sequence[str], between: str = "; ") -> str:
    """Return the first texts and how many more there are; empty: none."""
    more = [f"{len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return between.join([*texts[:NAMED], *more])


def plain(text: object) -> str:
    """Return a text from outside as a terminal may get it: without what it would obey."""
    return "".join(each if each.isprintable() else "?" for each in str(text))


def at_port(address: object, port: int) -> str:
    """Return an IP address and a port as they stand in a URL: IPv6 in brackets (RFC 3986)."""
    text = str(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def columns(text: str, width: int) -> str:
    """Return as much of a text as a terminal shows in so many columns.

    Some letters are two wide; those that join the one before need none.
    """
    if text.isascii():
        return text[:width]
    used = 0
    for at, each in enumerate(text):
        used += 2 if unicodedata.east_asian_width(each) in "WF" else (
            0 if unicodedata.combining(each) else 1)
        if used > width:
            return text[:at]
    return text
