"""Shortens a long list for one line of `slim status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NAMED: Final = 5


def some_of(texts: Sequence[str], between: str = "; ") -> str:
    """Return the first texts and how many more there are; empty: none."""
    more = [f"{len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return between.join([*texts[:NAMED], *more])
