"""Starts the driver's parts in order, and stops them in reverse.

If a part fails to start, the parts already started are stopped again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from driver.errors import SlimError

log = logging.getLogger("slim")


@dataclass(frozen=True)
class Part:
    """A part that runs between start and stop."""

    name: str
    start: Callable[[], None]
    stop: Callable[[], None]


class Driver:
    """The running driver: starts its parts in order, and stops them in reverse."""

    def __init__(self, parts: list[Part],
                 failed: Callable[[SlimError], None] = lambda _error: None) -> None:
        """failed: called when a start fails, before anything is stopped again."""
        self._parts = parts
        self._failed = failed
        self._started = ExitStack()

    def start(self) -> None:
        """Start all parts.  Error: SlimError; parts already started are then stopped again."""
        with ExitStack() as started:
            for part in self._parts:
                try:
                    part.start()
                except SlimError as error:
                    self._failed(error)
                    raise
                started.callback(self._stop, part)
            self._started = started.pop_all()

    def stop(self) -> None:
        """Stop all parts; links, maps and programs stay, connections continue.  Idempotent."""
        self._started.close()

    @staticmethod
    def _stop(part: Part) -> None:
        try:
            part.stop()
        except Exception:
            log.exception("stopping %s failed", part.name)


def nothing() -> None:
    """Do nothing: for parts that are ready once they are built."""
