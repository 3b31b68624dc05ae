"""Follows connections while somebody asks, and hands each refusal on: reads the kernel's events.

A thread of its own reads them; it sleeps while there are none.  It takes a bounded number a second,
so that no container can make the driver busy; what comes faster is lost, and counted.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from driver.errors import InvalidArgument, SlimError
from driver.services.ports import Event, Events

log = logging.getLogger("slim.flows")

BATCH: Final = 500  # events that are read at once ...
PAUSE_S: Final = 0.1  # ... before such a pause: 5,000 a second
KEPT: Final = 10_000  # events that wait for followers: two seconds' of the most that is read
WATCH_S: Final = 3.0  # from a follower's question until it counts as gone
WAIT_S: Final = 1.0  # that a question without an answer waits
READ: Final = 500  # events of which one answer speaks
_POSITION: Final = re.compile(r"([0-9]{1,19})-([0-9]{1,19})", re.ASCII)
NOBODY: Final = (1 << 64) - 1  # no sandbox's cookie
FOLLOWERS: Final = 8  # questions at once: each has one of the threads that serve Docker, too


@dataclass(frozen=True)
class Batch:
    """An answer: events in their order, where the next question goes on, what is missing."""

    events: Sequence[Event]
    next: str
    lost: int  # events that came too fast for us, or for this follower
    paused: bool = False  # nobody has followed for a while, so that nothing was told


def _position(after: str) -> tuple[int, int]:
    """Return the numbers of watch and event.  Error: InvalidArgument."""
    if not after:
        return 0, 0
    match = _POSITION.fullmatch(after)
    if match is None:
        raise InvalidArgument(f"{after[:40]!r} is no place in the events: begin without one")
    return int(match[1]), int(match[2])


class Following:
    """The use case.  Thread-safe; start() and stop() once each."""

    def __init__(self, events: Events, refused: Callable[[Sequence[Event]], None],
                 clock: Callable[[], float] = time.monotonic) -> None:
        """refused: is called with refusals, in the reader's thread.  clock: seconds, monotonic."""
        self._events = events
        self._refused = refused
        self._clock = clock
        self._stopping = threading.Event()
        self._news = threading.Condition()  # guards all that follows
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT)  # by number
        self._next = 1  # number of the next event; lost ones have numbers, too
        self._until_s = 0.0  # followed until then
        self._wanted: dict[int, float] = {}  # cookies of sandboxes (0: all) -> wanted until then
        self._watch_number = secrets.randbits(32)  # grows when somebody begins after a pause
        self._free = threading.BoundedSemaphore(FOLLOWERS)
        self._lost = 0  # as of the kernel's count
        self._thread = threading.Thread(target=self._run, name="flows", daemon=True)

    def start(self) -> None:
        """Begin to read.  Error: DatapathError."""
        self._lost = self._events.lost()
        self._thread.start()

    def stop(self) -> None:
        """End, and have the kernel tell no more of connections.  Idempotent."""
        self._stopping.set()
        self._events.wake()
        with self._news:
            self._news.notify_all()
        if self._thread.ident is not None:  # it was started
            self._thread.join()
            self._events.watch(0)

    def follow(self, wanted: Callable[[Event], bool], after: str, cookie: int = 0) -> Batch:
        """Return the events from `after` on, or none if there are none within a second.

        after: an answer's `next`; "": only begins, so that what comes from now on is not missed.
        wanted: is asked in this thread.  cookie: the only sandbox whose events are wanted.
        Errors: InvalidArgument; SlimError, if too many follow; DatapathError.
        """
        watch, number = _position(after)
        if not self._free.acquire(blocking=False):
            raise SlimError(f"{FOLLOWERS} others follow connections at the moment: end one of them")
        try:
            current = self._watch(cookie)
            if watch != current:
                return Batch((), f"{current}-{self._next}", 0, paused=bool(after))
            return self._answer(wanted, current, number)
        finally:
            self._free.release()

    def _watch(self, cookie: int) -> int:
        """Have the kernel tell us for a while; of all sandboxes, if followers want several.

        Returns the watch's number.
        """
        with self._news:
            now_s = self._clock()
            if now_s >= self._until_s:
                self._watch_number += 1
                self._kept.clear()
            self._until_s = now_s + WATCH_S
            self._wanted = {each: until_s for each, until_s in self._wanted.items()
                            if now_s < until_s} | {cookie: self._until_s}
            self._events.watch(WATCH_S, cookie if len(self._wanted) == 1 else 0)
            return self._watch_number

    def _answer(self, wanted: Callable[[Event], bool], watch: int, after: int) -> Batch:
        found: list[Event] = []
        lost = 0
        end_s = self._clock() + WAIT_S
        while not found and not lost:
            with self._news:
                while self._next <= after and self._clock() < end_s and not self._stopping.is_set():
                    self._news.wait(max(0.0, end_s - self._clock()))
                after = min(after, self._next)  # whatever a caller makes up
                raws, reached = self._since(after)
            lost, after = reached - after - len(raws), reached
            found = [event for event in map(self._events.read, raws) if wanted(event)]
            if self._clock() >= end_s or self._stopping.is_set():
                break
        return Batch(found, f"{watch}-{after}", lost)

    def _since(self, after: int) -> tuple[list[bytes], int]:
        """Return the oldest events from `after` on, and the number that follows them."""
        raws: list[bytes] = []
        for number, raw in reversed(self._kept):
            if number < after:
                break
            raws.append(raw)
        raws.reverse()
        if len(raws) <= READ:
            return raws, self._next
        first_left = next(number for number, raw in self._kept if raw is raws[READ])
        return raws[:READ], first_left

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._events.wait()
                self._take()
            except SlimError as error:
                log.warning("reading the kernel's events: %s", error)
            except Exception:
                log.exception("reading the kernel's events failed")
            self._stopping.wait(PAUSE_S)

    def _take(self) -> None:
        raws = self._events.take(BATCH)
        lost = self._events.lost()
        with self._news:
            followed = self._clock() < self._until_s
            self._next += lost - self._lost
            self._lost = lost
            for raw in raws:
                if followed:
                    self._kept.append((self._next, raw))
                    self._next += 1
            self._news.notify_all()
        refusals = [self._events.read(raw) for raw in raws if self._events.is_refusal(raw)]
        if refusals:
            self._refused(refusals)
