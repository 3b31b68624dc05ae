"""Exchanges summaries with other hosts, in a thread of its own, as long as somebody watches.

Whoever watches says so; only then do the others tell.  Without a watcher nothing is written.  etcd
keeps all that was written until it compacts, so all hosts together write so many bytes a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from driver.errors import SlimError
from driver.model import HostId
from driver.services.ports import Summaries, Summary
from driver.services.watching.samples import LINGER_S
from driver.work import deadline

EVERY_S: Final = 2.0  # between two rounds
AGAIN_S: Final = 5.0  # after one that failed
LIMIT_S: Final = 4.0  # for what etcd is asked in one
# Bytes a second that all hosts together write: at first, and when the watch has lasted for long.
# In the first ten minutes that is 24 MB, later 36 MB an hour.
QUICK_BYTES_S, STEADY_BYTES_S = 40_000, 10_000
QUICK_S: Final = 600.0
END_S: Final = 1.0  # to take everything back when the driver stops; else the leases end

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heard:
    """What another host has told, as it was last heard."""

    revision: int
    at_s: float  # monotonic, by this host's clock
    summary: Summary | None
    problem: str = ""  # why what it told last cannot be read


@dataclass(frozen=True)
class Others:
    """What is known of other hosts' summaries."""

    since_s: float  # since when they are asked: monotonic
    heard: Mapping[HostId, Heard] = field(default_factory=dict)
    problem: str = ""  # why they cannot be asked at this moment
    asked: bool = False  # at least once, since then


class Sharing:
    """Tells and hears.  Thread-safe."""

    def __init__(self, me: HostId, summaries: Summaries, latest: Callable[[], Summary | None],
                 watched: Callable[[bool], None], *, hosts: Callable[[], int],
                 clock: Callable[[], float] = time.monotonic) -> None:
        """latest: this host's summary.  watched: told whether other hosts want it.

        hosts: how many hosts tell when one watches.  clock: seconds, monotonic.
        """
        self._me = me
        self._summaries = summaries
        self._latest = latest
        self._tell = watched
        self._hosts = hosts
        self._clock = clock
        self._changed = threading.Condition()  # of the next six
        self._until_s = float("-inf")  # somebody here watches
        self._since_s = 0.0  # since when
        self._watchers: frozenset[HostId] = frozenset()
        self._others: Others | None = None  # None: nobody has watched
        self._stopped = False
        self._problem = ""
        self._put: Summary | None = None  # what was told last
        self._put_s = float("-inf")  # when
        self._watched_s: float | None = None  # since when others have watched
        self._watching = False  # it was said that this host does
        self._thread = threading.Thread(target=self._run, name="summaries", daemon=True)

    def start(self) -> None:
        """Start; nothing is asked or told until somebody watches."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and take back what was told."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def watchers(self, hosts: Collection[HostId]) -> None:
        """Take all hosts that watch now.  Returns at once."""
        with self._changed:
            self._watchers = frozenset(hosts)
            self._changed.notify_all()
        self._tell(self._is_watched())

    def ask(self) -> Others:
        """Return what others have told; have them asked for a while."""
        with self._changed:
            now_s = self._clock()
            if self._others is None or now_s >= self._until_s:
                self._since_s, self._others = now_s, Others(now_s)
            self._until_s = now_s + LINGER_S
            self._changed.notify_all()
            return self._others

    def _is_watched(self) -> bool:
        return bool(self._watchers - {self._me})

    def _asks(self) -> bool:
        return self._clock() < self._until_s

    def _wanted(self) -> bool:
        return self._asks() or self._is_watched() or self._watching or self._put is not None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._wanted())
                if self._stopped:
                    break
            failed = self._round()
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, AGAIN_S if failed else EVERY_S)
        with deadline.limit(END_S):
            self._try(self._take_back)

    def _round(self) -> bool:
        """Do all that is due; return whether etcd failed."""
        with deadline.limit(LIMIT_S):
            problem = self._try(self._hear) or self._try(self._speak)
        if problem and problem != self._problem:
            log.info("summaries for `slim top --cluster`: %s", problem)
        self._problem = problem
        return bool(problem)

    def _hear(self) -> None:
        with self._changed:
            asks, others, seen = self._asks(), self._others, self._me in self._watchers
            if not asks:
                self._others = None
        if not asks or others is None:
            if self._watching:
                self._summaries.unwatch()
                self._watching = False
            return
        problem = ""
        heard = dict(others.heard)
        try:
            self._summaries.watch(again=self._watching and not seen)
            self._watching = True
            told = self._summaries.all({host: each.revision for host, each in heard.items()})
        except SlimError as error:
            problem = str(error)
            raise
        else:
            now_s = self._clock()
            for host, each in told.items():
                before = heard.get(host)
                if host == self._me or (before and before.revision == each.revision):
                    continue
                summary = each.summary or (before.summary if before else None)
                heard[host] = Heard(each.revision, now_s, summary, each.problem)
        finally:
            with self._changed:
                if self._others is others:  # nobody has begun anew meanwhile
                    self._others = Others(others.since_s, heard, problem,
                                          others.asked or not problem)

    def _speak(self) -> None:
        now_s = self._clock()
        if not self._is_watched():
            self._watched_s = None
            if self._put is not None:
                self._summaries.withdraw()
                self._put = None
            return
        if self._watched_s is None:
            self._watched_s, self._put_s = now_s, float("-inf")
        latest = self._latest()
        if latest is None or latest is self._put:
            return
        rate_bytes_s = QUICK_BYTES_S if now_s - self._watched_s < QUICK_S else STEADY_BYTES_S
        pause_s = self._summaries.size_bytes(latest) * max(1, self._hosts()) / rate_bytes_s
        if now_s < self._put_s + pause_s:
            return
        self._put, self._put_s = latest, now_s
        self._summaries.put(replace(latest, every_s=max(latest.every_s, pause_s)))

    def _take_back(self) -> None:
        if self._watching:
            self._summaries.unwatch()
        if self._put is not None:
            self._summaries.withdraw()

    @staticmethod
    def _try(act: Callable[[], None]) -> str:
        """Return why it failed; "": it did not."""
        try:
            act()
        except SlimError as error:
            return str(error)
        except Exception as error:  # the thread must outlive a bug
            log.exception("summaries for `slim top --cluster`")
            return f"an error in slim itself, {type(error).__name__}: {error}"
        return ""
