"""Owns noting something in one step: either it is noted, or all is as before.

It must not know what is noted, nor remember it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TypeVar

from driver.errors import StateError
from driver.services.ports import Notes

T = TypeVar("T")


def put_or_restore(notes: Notes[T], name: str, item: T, before: T | None) -> None:
    """Note it in place of `before` (None: nothing was noted).  Error: StateError."""
    try:
        notes.put(name, item)
    except StateError:
        # It may have been written, though its writer was told that it failed.
        with suppress(StateError):
            if before is None:
                notes.remove(name)
            else:
                notes.put(name, before)
        raise
