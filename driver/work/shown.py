"""Owns how much of a long list is shown to people in a line of `slim status`.

It must not know what is listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NAMED: Final = 5


def some_of(texts: Sequence[str], between: str = "; ") -> str:
    """Return the first ones and how many more there are; empty: none."""
    more = [f"{len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return between.join([*texts[:NAMED], *more])
