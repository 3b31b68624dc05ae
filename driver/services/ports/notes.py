"""Defines the notes of its own objects that this host keeps on its disk.

driver/state writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from driver.model import Hold, PoolId

T = TypeVar("T")


class Notes(Protocol[T]):
    """Notes of one kind, each under its name.  All errors: StateError.  Thread-safe."""

    def put(self, name: str, item: T) -> None:
        """Note `item` in place of an earlier note under this name."""

    def remove(self, name: str) -> None:
        """Remove a note.  Idempotent."""

    def all(self) -> dict[str, T]:
        """Return all readable notes by name; unreadable ones are left alone and logged."""

    def is_complete(self) -> bool:
        """Tell whether everything of this kind has been noted since `complete`."""

    def complete(self) -> None:
        """State permanently that everything of this kind was noted."""


@dataclass(frozen=True)
class PoolNote:
    """A pool that this host has requested in its own space, with the number of requests."""

    pool_id: PoolId
    requests: int


@dataclass(frozen=True)
class HoldNote:
    """An address that this host holds in its own space."""

    pool_id: PoolId
    address: str
    hold: Hold
