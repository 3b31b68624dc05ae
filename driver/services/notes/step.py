"""Notes something in one step: either it is noted, or everything is as before."""

from __future__ import annotations

from contextlib import suppress
from typing import TypeVar

from driver.errors import StateError
from driver.services.ports import Notes

T = TypeVar("T")


def put_or_restore(notes: Notes[T], name: str, item: T, before: T | None) -> None:
    """Note `item` in place of `before` (None: nothing was noted).  Error: StateError."""
    try:
        notes.put(name, item)
    except StateError:
        # It may have been written, although the write was reported as failed.
        with suppress(StateError):
            if before is None:
                notes.remove(name)
            else:
                notes.put(name, before)
        raise
