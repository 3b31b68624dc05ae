"""Follows many prefixes of etcd on one stream: lists, watches, resumes, lists again.

watch.py keeps the stream alive.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from driver.errors import SlimError
from driver.store.feeds.feed import Feed, FeedListener
from driver.store.feeds.past import Past, compacted
from driver.store.kv.protocol import Listing, Moment, News, Stream, WatchedKeyValue, WatchLost
from driver.work.later import Later

THREADS: Final = 2  # that call listeners: while one listener is slow, the others continue
WAITING_MAX = 20_000  # changes, about 700 bytes each, that listeners have not taken yet
# Upper bounds of the pause before another stream, and before a feed is listed again after its
# listener or etcd failed; the last one repeats.  Random, as all hosts lose their stream together.
PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)
STEADY_S: Final = 10.0  # a stream that lasted this long ended the outage before it
# Lists that become due together are spread over this time: per feed, and at most for all feeds.
LIST_S: Final = 0.02
LISTS_S: Final = 5.0
# By then etcd has certainly started all resumed watches.
SETTLED_S = 60.0
CLOSE_S: Final = 10.0  # for a listener to finish

log = logging.getLogger(__name__)


class Feeds:
    """All feeds of a driver.  Thread-safe.  Its threads start with the first feed.

    One thread keeps the stream and only receives; others list, and call listeners.
    """

    def __init__(self, kv: WatchedKeyValue,
                 went_back: Callable[[Moment, Moment], None] = lambda _before, _now: None, *,
                 jitter: Callable[[], float] = random.random,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """went_back: called with before and now when etcd no longer has what it had reported.

        All feeds list again after it returns.
        jitter: from 0 to 1, a new value at each call.  clock: seconds, monotonic.
        """
        self._kv = kv
        self._went_back = went_back
        self._jitter = jitter
        self._clock = clock
        self._changed = threading.Condition()  # guards everything below, and all feeds
        self._feeds: dict[Feed, None] = {}
        self._key = ""  # a key that may be read
        self._stream: Stream | None = None
        self._watched: dict[int, Feed] = {}  # by the watch's number
        self._waiting = 0  # number of changes, over all feeds
        self._past: Past | None = None
        self._histories = 0  # how many histories etcd has begun since the start
        self._opened = 0  # how often etcd was asked whether it is the same one as before
        self._heard_s = clock()  # etcd's last sign of life, on streams that have ended
        self._relists = 0  # of feeds that had been listed before
        self._stop = threading.Event()
        self._later: Later[Feed | None] = Later(self._work, threads=THREADS, name="slim-feeds")
        self._keeper: threading.Thread | None = None

    def follow(self, prefix: str, listener: FeedListener, *, removals: bool = False) -> Feed:
        """Keep `listener` up to date until the feed is closed.  Returns immediately.

        removals: report only removals; nothing is listed, however much exists (see Feed).
        """
        feed = Feed(prefix, listener, self._end, removals=removals)
        with self._changed:
            self._feeds[feed] = None
            self._key = self._key or prefix
            if self._keeper is None and not self._stop.is_set():
                self._keeper = threading.Thread(target=self._keep, name="slim-feeds", daemon=True)
                self._keeper.start()
                self._later.start()
        self._later.submit(feed)
        return feed

    def _end(self, feed: Feed) -> None:
        with self._changed:
            feed.closed = True
            self._feeds.pop(feed, None)
            self._forget(feed)
            self._later.cancel(feed)
            if feed.runner != threading.get_ident():
                self._changed.wait_for(lambda: not feed.runner, CLOSE_S)

    def close(self) -> None:
        """End all feeds, the stream and the threads."""
        with self._changed:
            self._stop.set()
            feeds, stream, keeper = list(self._feeds), self._stream, self._keeper
        for feed in feeds:
            feed.close()
        if stream is not None:
            stream.close()
        if keeper is not None:
            keeper.join(CLOSE_S)
            self._later.stop()

    def silent_s(self) -> float:
        """Return for how many seconds etcd has given no sign of life on the stream of changes."""
        with self._changed:
            if self._stream is not None:
                self._heard_s = max(self._heard_s, self._stream.heard_s())
            return max(0.0, self._clock() - self._heard_s)

    def relists(self) -> int:
        """Count the lists that were read again, as their changes could not be followed."""
        with self._changed:
            return self._relists

    # The stream: the keeper's part.

    def _keep(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began_s = self._clock()
            try:
                stream = self._open()
                self._resume(stream)
                while (news := stream.next()) is not None:
                    self._take(news)
            except SlimError as error:
                # One line at the start of an outage, not one per second.
                log.log(logging.DEBUG if failures else logging.WARNING,
                        "changes in etcd cannot be followed, trying again: %s", error)
            except Exception:
                log.exception("changes in etcd are followed anew")
            self._lost()
            if self._clock() - began_s >= STEADY_S:
                failures = 0
            self._stop.wait(_pause_s(failures) * self._jitter())
            failures += 1

    def _open(self) -> Stream:
        # Read first: this also logs in again if the old login has expired.
        self._kv.now(self._key)
        stream = self._kv.stream(self._key)
        try:
            self._compare(stream.opened)
        except BaseException:
            stream.close()
            raise
        return stream

    def _compare(self, opened: Moment) -> None:
        """Check whether etcd is the same as before, now that its loss would break the stream.

        Error: WatchLost (the stream's member is behind).
        """
        with self._changed:
            past = self._past
            self._opened += 1
        now = self._kv.now(self._key)
        if past is not None and past.contradicted(self._kv, now):
            self._go_back(past.moment, now)
            past = None
        if past is not None:
            self._step_back(past, now)
        self._forget_compacted(now)
        if opened.cluster != now.cluster or (
                past is not None and opened.revision < past.moment.revision):
            raise WatchLost("a member of etcd is behind what others told")
        with self._changed:
            self._past = self._past or Past(now)

    def _step_back(self, past: Past, now: Moment) -> None:
        """Make feeds resume after the last change that etcd was seen to remember.

        A higher revision proves nothing about the changes in between: if the history is
        another one, they were not reported.  If it is the same, nothing that lasts is reported
        twice.
        """
        seen = past.witness.mod_revision if past.witness else now.revision
        if seen < now.revision and self._kv.keeps(self._key, seen + 1):
            with self._changed:
                for feed in self._feeds:
                    feed.position = min(feed.position, seen)

    def _go_back(self, before: Moment, now: Moment) -> None:
        log.warning("etcd has lost what it told: it was at revision %d (cluster %x), and is at %d "
                    "(cluster %x); everything is listed again",
                    before.revision, before.cluster, now.revision, now.cluster)
        with self._changed:
            self._histories += 1
            self._past = None
            for feed in self._feeds:
                self._forget(feed)
        self._went_back(before, now)

    def _resume(self, stream: Stream) -> None:
        with self._changed:
            self._stream = stream
            if self._stop.is_set():
                stream.close()
            for feed in self._feeds:
                if feed.position:
                    feed.begin = feed.begin or feed.position + 1
                    self._watch(feed)
                else:
                    self._later.submit(feed, self._spread_s(feed))
            if any(feed.begin for feed in self._feeds):
                self._later.submit(None, SETTLED_S)

    def _take(self, news: News) -> None:
        with self._changed:
            feed = self._watched.get(news.watch)
            if feed is None:
                return
            if news.ended:
                log.info("%s: listing again: %s", feed.prefix, news.ended)
                self._list_again(feed)
                if not news.compacted:
                    self._lost()  # perhaps its login has expired
                return
            feed.position = news.revision
            if self._past is not None:
                self._past = self._past.with_changes(news.revision, news.changes)
            if news.changes:
                feed.waiting.extend(news.changes)
                self._waiting += len(news.changes)
                self._later.submit(feed)
            if self._waiting > WAITING_MAX:
                slowest = max(self._feeds, key=lambda each: len(each.waiting))
                log.warning("%s: changes come faster than they are taken; listing again",
                            slowest.prefix)
                self._list_again(slowest)

    def _lost(self) -> None:
        with self._changed:
            stream, self._stream = self._stream, None
            if stream is not None:
                self._heard_s = max(self._heard_s, stream.heard_s())
            self._watched.clear()
            for feed in self._feeds:
                feed.watch = 0
        if stream is not None:
            stream.close()

    # Lists and listeners: the other threads' part.

    def _work(self, feed: Feed | None) -> None:
        if feed is not None:
            self._serve(feed)
            return
        try:
            self._forget_compacted(self._kv.now(self._key), settle=True)
        except SlimError:
            self._later.submit(None, SETTLED_S)

    def _forget_compacted(self, now: Moment, *, settle: bool = False) -> None:
        """List those feeds again that cannot resume from where they were.

        etcd reports this itself, but many versions lose that report if it concerns more than a
        hundred watches of one stream (etcd issue 17529).  So the driver asks before the watches
        start, and again, to be sure, when they have started.
        """
        with self._changed:
            begins = {feed: begin for feed in self._feeds if feed.position
                      and 0 < (begin := feed.begin if settle else feed.begin or feed.position + 1)
                      <= now.revision}
        gone = compacted(self._kv, self._key, begins.values())
        with self._changed:
            for feed, begin in begins.items():
                if feed.closed or not feed.position:
                    continue
                if begin in gone:
                    log.info("%s: listing again: compacted", feed.prefix)
                    self._list_again(feed)
                elif settle:
                    feed.begin = 0

    def _serve(self, feed: Feed) -> None:
        with self._changed:
            if feed.closed or feed.runner or not (feed.position or self._stream):
                return  # its runner, or whoever opens a stream, takes care of it
            feed.runner = threading.get_ident()
            changes, feed.waiting = feed.waiting, []
            self._waiting -= len(changes)
            listed, opened = bool(feed.position), self._opened
        failed = True
        try:
            if not listed:
                self._list(feed, opened)
            elif changes:
                feed.listener.changed(changes)
            failed = False
        except SlimError as error:
            log.log(logging.DEBUG if feed.failures else logging.WARNING,
                    "%s: listing again: %s", feed.prefix, error)
        except Exception:
            log.exception("%s: the listener failed; listing again", feed.prefix)
        finally:
            self._served(feed, failed=failed)

    def _list(self, feed: Feed, opened: int) -> None:
        """List the feed.  opened: the `_opened` of the stream's check (see `_compare`)."""
        past, histories = self._past, self._histories
        listing = (Listing((), self._kv.now(feed.prefix).revision) if feed.removals
                   else self._kv.range(feed.prefix))
        if past is not None and listing.revision < past.moment.revision:
            self._lost()  # the keeper then finds out why
            raise WatchLost(f"etcd was at revision {past.moment.revision}, and is at "
                            f"{listing.revision}")
        with self._changed:
            if feed.closed or self._past is None or (opened, histories) != (
                    self._opened, self._histories):
                return  # the list may be outdated: etcd was not asked about it
            self._past = self._past.with_entries(listing.revision, listing.entries)
        feed.listener.listed(listing.entries, listing.revision)
        with self._changed:
            if feed.closed or histories != self._histories:
                return
            self._relists += feed.listed and not feed.removals
            feed.listed, feed.position = True, listing.revision
            if opened != self._opened and self._past is not None and self._past.witness:
                feed.position = min(feed.position, self._past.witness.mod_revision)
            self._watch(feed)

    def _served(self, feed: Feed, *, failed: bool) -> None:
        with self._changed:
            feed.runner = 0
            self._changed.notify_all()
            if feed.closed:
                return
            pause_s = 0.0
            if failed:
                self._forget(feed)
                pause_s = _pause_s(feed.failures) * (1 + self._jitter()) / 2
            feed.failures = feed.failures + 1 if failed else 0
            if feed.waiting or not feed.position:
                self._later.submit(feed, pause_s)

    # Under the lock.

    def _watch(self, feed: Feed) -> None:
        if self._stream is not None:
            feed.watch = self._stream.watch(feed.prefix, feed.position + 1,
                                            removals=feed.removals)
            self._watched[feed.watch] = feed

    def _forget(self, feed: Feed) -> None:
        """Drop what has arrived: the feed is to be listed again, or is closed."""
        self._waiting -= len(feed.waiting)
        feed.waiting, feed.position, feed.begin = [], 0, 0
        if self._watched.pop(feed.watch, None) is not None and self._stream is not None:
            self._stream.cancel(feed.watch)
        feed.watch = 0

    def _list_again(self, feed: Feed) -> None:
        self._forget(feed)
        self._later.submit(feed, self._spread_s(feed))

    def _spread_s(self, feed: Feed) -> float:
        if not feed.listed:
            return 0.0  # somebody waits for it
        return self._jitter() * min(LIST_S * len(self._feeds), LISTS_S)


def _pause_s(failures: int) -> float:
    return PAUSES_S[min(failures, len(PAUSES_S) - 1)]
