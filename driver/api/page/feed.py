"""Asks the driver for its picture and hands it to the browsers that follow, as server-sent events.

All browsers together cost one question each two seconds.  While nobody follows, only this host is
asked for, each ten seconds, so that there is a history.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from driver.api.page.history import EVERY_S, History, Picture
from driver.errors import SlimError

log = logging.getLogger("slim.page")

BROWSERS: Final = 20
FOLLOWED_EVERY_S: Final = 2.0
_MEMBERS: Final = ("Hosts", "Networks", "Endpoints", "Pairs", "Reasons", "Totals",
                  "Refusals")


class TooManyError(SlimError):
    """No further browser can follow."""


class Feed:
    """The newest picture, and who follows it."""

    def __init__(self, ask: Callable[[bool], dict[str, Any]],
                 clock: Callable[[], float] = time.monotonic) -> None:
        """`ask`: returns the answer of Slim.Picture; True: of the cluster.  Errors: SlimError.

        `clock`: in seconds.
        """
        self._ask = ask
        self._clock = clock
        self._changed = threading.Condition()
        self._followers = 0
        self._ended = False
        self._version = 0  # of the news
        self._news = b""
        self.history: Final = History()  # of the thread, once that runs
        self._thread = threading.Thread(target=self._run, name="page feed", daemon=True)

    @property
    def followers(self) -> int:
        """Return how many browsers follow."""
        with self._changed:
            return self._followers

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking, and end all events.  Idempotent."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def follow(self) -> Iterator[bytes]:
        """Yield events until the feed stops; whoever closes the iterator follows no more.

        Error, at once: TooManyError.
        """
        with self._changed:
            if self._followers >= BROWSERS:
                raise TooManyError(f"{BROWSERS} browsers have this page open, which is as many as "
                                   "may: close it in one of them")
            self._followers += 1
            self._changed.notify_all()
        return _Following(self._events(), self._leave)

    def _leave(self) -> None:
        with self._changed:
            self._followers -= 1

    def _events(self) -> Iterator[bytes]:
        with self._changed:
            # The picture of before may be of this host alone: the next one is soon here.
            seen = self._version
            begun = event("history", self.history.all())
        yield begun
        while True:
            with self._changed:
                while not self._ended and self._version == seen:
                    self._changed.wait()
                if self._ended:
                    return
                seen, news = self._version, self._news
            yield news

    def _run(self) -> None:
        asked_s = -EVERY_S
        while True:
            with self._changed:
                while not self._ended:
                    left_s = asked_s - self._clock() + (
                        FOLLOWED_EVERY_S if self._followers else EVERY_S)
                    if left_s <= 0:
                        break
                    self._changed.wait(left_s)
                if self._ended:
                    return
                cluster = self._followers > 0
            asked_s = self._clock()
            self._tell(*self._news_of(cluster))

    def _news_of(self, cluster: bool) -> tuple[bytes, bytes]:
        """Return the events of a new sample, if there is one, and of a new question."""
        try:
            picture = checked(self._ask(cluster))
            more = self.history.add(picture)
        except SlimError as error:
            return b"", event("trouble", str(error))
        except Exception as error:  # the driver is another version, perhaps
            log.exception("the driver's picture")
            return b"", event("trouble", f"the driver's answer is not understood ({error}): are "
                              "`slim ui` and the driver of one version?")
        return (event("sample", self.history.all()[-1]) if more else b"",
                event("picture", picture))

    def _tell(self, *events: bytes) -> None:
        with self._changed:
            self._version += 1
            self._news = b"".join(events)
            self._changed.notify_all()


class _Following(Iterator[bytes]):
    """An iterator that says when it is closed, even if it was never begun."""

    def __init__(self, events: Iterator[bytes], leave: Callable[[], None]) -> None:
        self._events = events
        self._leave = leave
        self._open = True

    def __next__(self) -> bytes:
        return next(self._events)

    def close(self) -> None:
        """Follow no more.  Idempotent."""
        if self._open:
            self._open = False
            self._leave()


def checked(picture: dict[str, Any]) -> Picture:
    """Return a picture that has all its lists.  Error: SlimError."""
    missing = [name for name in _MEMBERS if not isinstance(picture.get(name), list)]
    if missing:
        raise SlimError(f"the driver answers no {missing[0].lower()}: are `slim ui` and the driver "
                        "of one version?")
    return picture


def event(name: str, data: object) -> bytes:
    """Return a server-sent event; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
