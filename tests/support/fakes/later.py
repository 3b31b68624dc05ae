"""Fakes driver.work.later: jobs run in the test's own thread, when the test says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from driver.work.later import Later

K = TypeVar("K")

log = logging.getLogger(__name__)


class InlineLater(Later[K], Generic[K]):
    """A Later without threads: `pump` runs what waits, and counts no delay."""

    def __init__(self, run: Callable[[K], None], *, threads: int = 1, name: str = "",
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._job = run
        self._keys: dict[K, None] = {}
        self.delays: list[float] = []  # of all submissions, in order

    def start(self) -> None: ...

    def stop(self, *, drain: bool = False) -> None: ...

    def submit(self, key: K, delay_s: float = 0.0) -> None:
        self.delays.append(delay_s)
        self._keys[key] = None

    def cancel(self, key: K) -> None:
        self._keys.pop(key, None)

    def pump(self) -> bool:
        """Run what waits; return whether there was anything."""
        waiting, self._keys = self._keys, {}
        for key in waiting:
            try:
                self._job(key)
            except AssertionError:
                raise  # a fake's
            except Exception:
                log.exception("job %s failed", key)  # as the thread does
        return bool(waiting)


class InlineLaters:
    """Makes the Laters of one object, for its constructor's parameter `later`."""

    def __init__(self) -> None:
        self.made: dict[str, InlineLater[str]] = {}  # by name

    def __call__(self, run: Callable[[str], None], *, threads: int, name: str,
                 clock: Callable[[], float] = time.monotonic) -> InlineLater[str]:
        self.made[name] = InlineLater(run, threads=threads, name=name, clock=clock)
        return self.made[name]

    def pump(self) -> bool:
        """Run what waits in any of them; return whether there was anything."""
        pumped = [each.pump() for each in self.made.values()]
        return any(pumped)
