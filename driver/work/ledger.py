"""Keeps what is outstanding on this host: keyed, idempotent steps, repeated until they have worked.

Each kind of step has a page.  In memory only: what must outlive the driver, its owner notes on
disk or in etcd, and puts here again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from driver.errors import SlimError, StoreUnavailable
from driver.work import deadline
from driver.work.later import Later
from driver.work.shown import some_of

K = TypeVar("K")
V = TypeVar("V")

# Pauses before the second and later attempts.  A namespace may become visible a little after
# its interface (mount propagation into a plugin); anything that lasts longer is no race, and its
# cause may go away today or tomorrow.
PAUSES_S: Final = (0.005, 0.05, 0.5, 2.0, 10.0)
AGAIN_S: Final = 60.0
OUTAGE_S: Final = 5.0  # no longer pause while etcd is away: when it is back, the step works
SPREAD: Final = 0.25  # of a pause, up and down, so that not all hosts and steps retry at once
STUCK: Final = "STUCK"
LIMIT_S: Final = 60.0  # for one attempt; a network may have thousands of endpoints

log = logging.getLogger(__name__)


def growing_s(failed: int, error: Exception) -> float:
    """Return the seconds until the next attempt, after `failed` earlier ones and this one."""
    pause = PAUSES_S[failed] if failed < len(PAUSES_S) else AGAIN_S
    if isinstance(error, StoreUnavailable):
        pause = min(pause, OUTAGE_S)
    return pause * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - it is no secret


@dataclass(frozen=True)
class Outstanding:
    """A step that has failed and will be repeated."""

    what: str
    since_s: float  # when it was first noted; seconds since the epoch
    attempts: int
    error: str  # of the last attempt


@dataclass(frozen=True)
class _Step(Generic[V]):
    value: V
    since_s: float
    attempts: int = 0  # that failed
    error: str = ""


class Page(Generic[K, V]):
    """The outstanding steps of one kind, at most one per key.  Thread-safe."""

    def __init__(self, what: str, act: Callable[[K, V], object], *, threads: int, drain: bool,
                 clock: Callable[[], float], wall: Callable[[], float],
                 pause_s: Callable[[int, Exception], float], called: Callable[[K], str]) -> None:
        """See Ledger.page."""
        self.what = what
        self._act = act
        self._drain = drain
        self._wall = wall
        self._pause_s = pause_s
        self._called = called
        self._guard = threading.Lock()
        self._steps: dict[K, _Step[V]] = {}
        self._later: Later[K] = Later(self._run, threads=threads, name=what, clock=clock)

    def put(self, key: K, value: V, delay_s: float = 0.0) -> None:
        """Have `act(key, value)` called in `delay_s` seconds, in place of the key's earlier step.

        Returns at once.  If an earlier step is due sooner, so is this one.
        """
        with self._guard:
            self._steps[key] = _Step(value, self._wall())
        self._later.submit(key, delay_s)

    def note(self, key: K, value: V, error: Exception) -> None:
        """Note a step that has just failed, and have it repeated.  Returns at once."""
        self._fail(key, self._begin(key, value), error)

    @contextmanager
    def attempt(self, key: K, value: V) -> Iterator[None]:
        """Keep the step outstanding until the block, which does it, ends without an error."""
        step = self._begin(key, value)
        try:
            yield
        except Exception as error:
            self._fail(key, step, error)
            raise
        self._end(key, step)

    def drop(self, key: K) -> V | None:
        """Strike the step: nobody wants it any more.  Return its value; None: there was none."""
        with self._guard:
            step = self._steps.pop(key, None)
        self._later.cancel(key)
        return step.value if step is not None else None

    def get(self, key: K) -> V | None:
        """Return the value of the key's step; None: there is none."""
        with self._guard:
            step = self._steps.get(key)
        return step.value if step is not None else None

    def values(self) -> list[V]:
        """Return the values of all steps."""
        with self._guard:
            return [step.value for step in self._steps.values()]

    def attempts(self, key: K) -> int:
        """Count the failed attempts at the key's step."""
        with self._guard:
            step = self._steps.get(key)
        return step.attempts if step is not None else 0

    def outstanding(self) -> list[Outstanding]:
        """Return the steps that have failed at least once."""
        with self._guard:
            found = [(key, step) for key, step in self._steps.items() if step.attempts]
        return [Outstanding(self._text(key), step.since_s, step.attempts, step.error)
                for key, step in found]

    def run(self) -> bool:
        """Attempt all steps now, in this thread; return whether there was any."""
        with self._guard:
            keys = list(self._steps)
        for key in keys:
            self._later.cancel(key)
            self._run(key)
        return bool(keys)

    def start(self) -> None:
        """Start attempting."""
        self._later.start()

    def stop(self) -> None:
        """Stop, after the attempts that are under way."""
        self._later.stop(drain=self._drain)

    def _run(self, key: K) -> None:
        with self._guard:
            step = self._steps.get(key)
        if step is None:
            return
        try:
            with deadline.limit(LIMIT_S):
                self._act(key, step.value)
        except Exception as error:
            if self._fail(key, step, error):
                self._say(key, step, error)
            return
        if self._end(key, step) and step.attempts:
            log.info("%s: done, after %d failed attempts", self._text(key), step.attempts)

    def _begin(self, key: K, value: V) -> _Step[V]:
        with self._guard:
            known = self._steps.get(key)
            # A new one: an attempt that is under way elsewhere then leaves this one alone.
            step = replace(known, value=value) if known else _Step(value, self._wall())
            self._steps[key] = step
        return step

    def _fail(self, key: K, step: _Step[V], error: Exception) -> bool:
        """Have the step repeated; False: there is another step by now, or none."""
        with self._guard:
            if self._steps.get(key) is not step:
                return False
            self._steps[key] = replace(step, attempts=step.attempts + 1, error=str(error))
        self._later.submit(key, self._pause_s(step.attempts, error))
        return True

    def _end(self, key: K, step: _Step[V]) -> bool:
        with self._guard:
            if self._steps.get(key) is not step:
                return False
            del self._steps[key]
        self._later.cancel(key)
        return True

    def _say(self, key: K, step: _Step[V], error: Exception) -> None:
        # `slim status` shows it for as long as it lasts: the log says only what is new.
        new = str(error) != step.error
        log.log(logging.WARNING if new else logging.DEBUG, "%s: attempt %d failed: %s",
                self._text(key), step.attempts + 1, error,
                exc_info=None if isinstance(error, SlimError) or not new else error)

    def _text(self, key: K) -> str:
        return f"{self.what} {self._called(key)}"


class Ledger:
    """All pages of a driver."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic,
                 wall: Callable[[], float] = time.time,
                 pause_s: Callable[[int, Exception], float] = growing_s) -> None:
        """clock: seconds, monotonic.  wall: seconds since the epoch.

        pause_s: from how many earlier attempts failed, and why this one did, to the next.
        """
        self._clock = clock
        self._wall = wall
        self._pause_s = pause_s
        self._pages: list[Page[Any, Any]] = []

    def page(self, what: str, act: Callable[[K, V], object], *, threads: int = 1,
             drain: bool = False, called: Callable[[K], str] = lambda key: f"{key!s:.12}"
             ) -> Page[K, V]:
        """Make a page.

        what: says, with what `called` makes of a key, what a step does.  act: does it; called in
        the page's own threads.  drain: attempt what waits once more when the driver stops.
        """
        made: Page[K, V] = Page(what, act, threads=threads, drain=drain, clock=self._clock,
                                wall=self._wall, pause_s=self._pause_s, called=called)
        self._pages.append(made)
        return made

    def start(self) -> None:
        """Start attempting the steps of all pages."""
        for page in self._pages:
            page.start()

    def stop(self) -> None:
        """Stop all pages, the last one first."""
        for page in reversed(self._pages):
            page.stop()

    def run(self) -> bool:
        """Attempt all steps now, in this thread; return whether there was any."""
        found = [page.run() for page in self._pages]
        return any(found)

    def outstanding(self) -> list[Outstanding]:
        """Return all steps that have failed at least once, the oldest first."""
        return sorted((step for page in self._pages for step in page.outstanding()),
                      key=lambda step: step.since_s)

    def counts(self) -> dict[str, int]:
        """Count the outstanding steps of each kind, also of those that have none."""
        counts: Counter[str] = Counter()
        for page in self._pages:
            counts[page.what.rstrip(":")] += len(page.outstanding())
        return dict(counts)

    def describe(self) -> str:
        """Say what is outstanding, since when, and why, for the status; empty: nothing is.

        It begins with STUCK if anything has failed so often that waiting may not help.
        """
        found = self.outstanding()
        stuck = any(step.attempts > len(PAUSES_S) for step in found)
        return (f"{STUCK}: " if stuck else "") + some_of([
            f"{step.what} since {time.strftime('%F %T', time.localtime(step.since_s))} "
            f"({step.attempts} attempts; {step.error})" for step in found])
