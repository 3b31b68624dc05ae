"""Tests the ways from and to this host once, when it has joined a cluster: one line in the log.

The driver's start does not wait for it.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from driver.errors import SlimError
from driver.model import HostId
from driver.services.ports import TOKEN_BYTES, Round, Rounds
from driver.services.testing.asking import Asking
from driver.services.testing.judging import Judged, judge
from driver.work import deadline
from driver.work.later import Later

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0  # between looks whether this host is ready
# Before each attempt; random, as hosts may join together and take turns.
PAUSE_S: Final = (2.0, 10.0)
ATTEMPTS: Final = 5  # while etcd is away, or other tests are under way
LIMIT_S: Final = 60.0  # for one


class _Stopped(SlimError):
    """The driver stops."""


class Newcomer:
    """Asks for one round about this host, in a thread of its own."""

    def __init__(self, me: HostId, name: str, rounds: Rounds,
                 joined: Callable[[], bool | None],
                 pause_s: Callable[[], float] = lambda: random.uniform(*PAUSE_S),  # noqa: S311
                 ) -> None:
        """name: of this host.  joined: whether it is new here; None: that is not known yet."""
        self._me = me
        self._name = name
        self._rounds = rounds
        self._joined = joined
        self._pause_s = pause_s
        self._asking = Asking(rounds, sleep=self._sleep)
        self._attempts = ATTEMPTS
        self._stopping = threading.Event()
        self._later: Later[None] = Later(self._work, threads=1, name="slim newcomer")

    def start(self) -> None:
        """Start waiting until it is known whether this host is new."""
        self._later.start()
        self._later.submit(None, self._pause_s())

    def stop(self) -> None:
        """Stop; a test under way is given up."""
        self._stopping.set()
        self._later.stop()

    def _sleep(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _Stopped("the driver stops")

    def _work(self, _: None) -> None:
        joined = self._joined()
        if joined is None:
            self._later.submit(None, LOOK_S)
        elif joined:
            self._test()

    def _test(self) -> None:
        began_s = time.monotonic()
        try:
            with deadline.limit(LIMIT_S):
                if self._rounds.live().keys() <= {self._me}:
                    return  # the next one tests the ways to this one
                found = judge(self._asking.ask(Round(
                    secrets.token_bytes(TOKEN_BYTES), self._name, focus=self._me)))
        except SlimError as error:
            self._attempts -= 1
            if self._attempts and not self._stopping.is_set():
                self._later.submit(None, self._pause_s())
            else:
                log.info("the ways to other hosts were not tested: %s", error)
            return
        _tell(found, time.monotonic() - began_s)


def _tell(found: Judged, took_s: float) -> None:
    others = len(found.found.live) - 1
    if others <= 0:
        return
    serious = [fault for fault in found.faults if not fault.kind.is_hint]
    if serious:
        more = f"; {len(serious) - 1} more: `slim test` lists them" if len(serious) > 1 else ""
        log.warning("the ways to and from %d other hosts were tested: %s%s", others,
                    serious[0].text, more)
    else:
        log.info("the ways to and from %d other hosts were tested in %.1f s: all well", others,
                 took_s)
