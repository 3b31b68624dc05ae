"""What this host keeps on its own disk of what is its own.

How it is written there is the matter of driver/state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from driver.model import Hold, PoolId

T = TypeVar("T")


class Notes(Protocol[T]):
    """Objects of one kind, each under its name.  All errors: StateError.  Thread-safe."""

    def put(self, name: str, item: T) -> None:
        """Note it, in place of what was noted under this name before."""

    def remove(self, name: str) -> None:
        """Forget it.  Idempotent."""

    def all(self) -> dict[str, T]:
        """Return everything that can be read, by name; what cannot is left alone, and logged."""

    def is_complete(self) -> bool:
        """Tell whether everything of this kind has been noted since `complete`."""

    def complete(self) -> None:
        """State, for good, that all there is was noted."""


@dataclass(frozen=True)
class PoolNote:
    """A pool that this host has requested in its own space, and how often."""

    pool_id: PoolId
    requests: int


@dataclass(frozen=True)
class HoldNote:
    """An address that this host holds in its own space."""

    pool_id: PoolId
    address: str
    hold: Hold
