"""Tests store/kv's WatchedKeyValue with the fake and with a real etcd."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from driver.store.etcd import watch
from driver.store.etcd.client import EtcdKeyValue
from driver.store.kv.protocol import Change, Delete, News, Put, Stream, WatchLost
from tests.support.fakes.kv import FakeKeyValue
from tests.support.run.wait import wait_until
from tests.support.world.etcd import Etcd

Kv = FakeKeyValue | EtcdKeyValue


class Follower:
    """Collects a stream's news in a thread until the stream ends."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.news: list[News] = []
        self.lost: WatchLost | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while (news := self.stream.next()) is not None:
                self.news.append(news)
        except WatchLost as lost:
            self.lost = lost

    def changes(self, watch: int) -> list[Change]:
        return [change for news in self.news if news.watch == watch for change in news.changes]

    def seen(self, watch: int) -> list[tuple[str, bytes | None]]:
        return [(change.key, change.value) for change in self.changes(watch)]

    def ended(self) -> bool:
        self.stream.close()
        self.thread.join(10)
        return not self.thread.is_alive()


def put(kv: Kv, key: str, value: bytes = b"v") -> int:
    revision = kv.commit([], [Put(key, value)])
    assert revision
    return revision


def test_a_watch_from_a_listing_misses_nothing_and_repeats_nothing(kv: Kv) -> None:
    put(kv, "/a/1", b"old")
    listing = kv.range("/a/")
    put(kv, "/a/1", b"between")
    follower = Follower(kv.stream("/a/"))
    a = follower.stream.watch("/a/", listing.revision + 1)
    put(kv, "/b/other")
    put(kv, "/a/2", b"later")
    last = kv.commit([], [Delete("/a/1")])
    expected = [("/a/1", b"between"), ("/a/2", b"later"), ("/a/1", None)]
    wait_until(lambda: len(follower.changes(a)) >= 3, 5, "three changes")
    assert follower.seen(a) == expected
    revisions = [change.mod_revision for change in follower.changes(a)]
    assert revisions == sorted(revisions)
    assert follower.news[-1].revision == revisions[-1] == last
    assert follower.ended()
    assert follower.lost is None


def test_the_changes_of_a_commit_come_together(kv: Kv) -> None:
    stream = kv.stream("/a/")
    stream.watch("/a/", kv.range("/a/").revision + 1)
    revision = kv.commit([], [Put("/a/1", b""), Put("/a/2", b"")])
    news = stream.next()
    stream.close()
    assert news is not None
    assert {change.key for change in news.changes} == {"/a/1", "/a/2"}
    assert news.revision == revision


def test_many_watches_each_with_a_beginning_of_its_own(kv: Kv) -> None:
    begin = kv.range("/").revision
    for number in range(5):
        put(kv, f"/a/{number}")
        put(kv, f"/b/{number}")
    follower = Follower(kv.stream("/"))
    a = follower.stream.watch("/a/", begin + 1)
    b = follower.stream.watch("/b/", begin + 6)  # the third of them
    twice = follower.stream.watch("/a/", kv.range("/").revision + 1)
    put(kv, "/a/last")
    put(kv, "/b/last")
    wait_until(lambda: all(key in dict(follower.seen(n)) for n, key in (
        (a, "/a/last"), (b, "/b/last"), (twice, "/a/last"))), 5, "all of it")
    assert [key for key, _ in follower.seen(a)] == [
        "/a/0", "/a/1", "/a/2", "/a/3", "/a/4", "/a/last"]
    assert [key for key, _ in follower.seen(b)] == ["/b/2", "/b/3", "/b/4", "/b/last"]
    assert follower.seen(twice) == [("/a/last", b"v")]
    assert follower.ended()


def test_a_cancelled_watch_is_silent_and_the_others_go_on(kv: Kv) -> None:
    begin = kv.range("/").revision + 1
    follower = Follower(kv.stream("/"))
    a, b = (follower.stream.watch(prefix, begin) for prefix in ("/a/", "/b/"))
    # One watch is confirmed, the other not, for both ways of cancelling.
    unconfirmed = follower.stream.watch("/a/", begin)
    follower.stream.cancel(unconfirmed)
    put(kv, "/a/1")
    wait_until(lambda: follower.seen(a), 5, "the first change")
    follower.stream.cancel(a)
    follower.stream.cancel(a)
    late = follower.stream.watch("/late/", begin)
    put(kv, "/late/1")  # its news come after the cancelling
    wait_until(lambda: follower.seen(late), 5, "a change after the cancelling")
    put(kv, "/a/2")
    put(kv, "/b/1")
    wait_until(lambda: follower.seen(b), 5, "the other watch's change")
    assert follower.seen(a) == [("/a/1", b"v")]
    assert ("/a/2", b"v") not in follower.seen(unconfirmed)
    assert follower.ended()


def test_closing_ends_a_silent_stream(kv: Kv) -> None:
    follower = Follower(kv.stream("/a/"))
    follower.stream.watch("/a/", kv.range("/a/").revision + 1)
    assert follower.ended()
    assert follower.lost is None
    assert follower.news == []


def test_a_watch_of_a_compacted_revision_ends_alone(kv: Kv) -> None:
    start = kv.range("/a/").revision
    for n in range(5):
        put(kv, "/a/1", str(n).encode())
    kv.compact(kv.range("/a/").revision)
    follower = Follower(kv.stream("/a/"))
    old = follower.stream.watch("/a/", start + 1)
    new = follower.stream.watch("/a/", kv.range("/a/").revision + 1)
    wait_until(lambda: follower.news, 5, "the watch's end")
    assert follower.news[0].watch == old
    assert follower.news[0].compacted
    assert "compacted" in follower.news[0].ended
    put(kv, "/a/1", b"on")
    wait_until(lambda: follower.seen(new) == [("/a/1", b"on")], 5, "the other watch's change")
    assert follower.ended()


def test_where_the_store_is(kv: Kv) -> None:
    before = kv.now("/a/")
    revision = put(kv, "/a/1")
    assert kv.now("/a/") == replace(before, revision=revision)
    stream = kv.stream("/a/")
    assert stream.opened == kv.now("/none")
    stream.close()


def test_what_it_remembers(kv: Kv) -> None:
    now = Change("/a/1", b"1", put(kv, "/a/1", b"1"))
    assert kv.remembers(now)
    put(kv, "/a/1", b"2")
    assert kv.remembers(now), "it was so at that revision"
    removed = Change("/a/1", None, kv.commit([], [Delete("/a/1")]))
    assert kv.remembers(now)
    assert kv.remembers(removed)
    put(kv, "/a/1", b"again")
    assert kv.remembers(removed), "it was so at that revision"
    assert not kv.remembers(replace(removed, mod_revision=now.mod_revision))
    assert not kv.remembers(replace(removed, mod_revision=removed.mod_revision + 1))
    assert not kv.remembers(replace(removed, key="/a/never"))
    assert not kv.remembers(replace(now, value=b"another"))
    assert not kv.remembers(replace(now, mod_revision=now.mod_revision + 1))
    assert not kv.remembers(replace(now, mod_revision=now.mod_revision + 1000)), "not yet"
    assert not kv.remembers(replace(now, key="/a/never"))
    kept = Change("/a/2", b"kept", put(kv, "/a/2", b"kept"))
    put(kv, "/a/3")
    compacted = kv.range("/a/").revision
    kv.compact(compacted)
    assert kv.remembers(now), "nobody can tell any more"
    assert kv.remembers(kept)
    assert not kv.remembers(replace(kept, value=None))
    assert kv.keeps("/a/", compacted)
    assert not kv.keeps("/a/", compacted - 1)


# The real one only: faults that the fake cannot have.

@pytest.mark.parametrize("fault", ["stopped", "frozen"])
def test_a_stream_is_lost_not_silent(own_etcd: Etcd, fault: str) -> None:
    with EtcdKeyValue(own_etcd.settings()) as kv:
        follower = Follower(kv.stream("/a/"))
        follower.stream.watch("/a/", 1)
        if fault == "stopped":
            own_etcd.stop()
        else:
            own_etcd.freeze()
        wait_until(lambda: follower.lost, 30, "the stream is lost")
        follower.thread.join(10)


def test_a_stream_survives_silence_with_one_probe_for_all(
        own_etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PROBE_S", 0.1)

    def received() -> float:
        return own_etcd.metric('grpc_server_msg_received_total{grpc_method="Watch"')

    with EtcdKeyValue(own_etcd.settings()) as kv:
        follower = Follower(kv.stream("/a/"))
        numbers = [follower.stream.watch(f"/a/{n}/", 1) for n in range(20)]
        wait_until(lambda: received() >= 20, 20, "the watches")
        # A probe is a watch that is ended again: two messages.
        before = received()
        wait_until(lambda: received() >= before + 10, 20, "several probes")
        put(kv, "/a/7/1", b"after the silence")
        wait_until(lambda: follower.seen(numbers[7]), 5, "the change")
        assert follower.seen(numbers[7]) == [("/a/7/1", b"after the silence")]
        wait_until(lambda: own_etcd.metric("etcd_debugging_mvcc_watcher_total") <= 21, 10,
                   "no watch of a probe stays")
        assert follower.ended()


def test_compacted_watches_do_not_stay_in_etcd(own_etcd: Etcd) -> None:
    """If more than 512 wait to be served, etcd repeats each one's end until we cancel it."""
    with EtcdKeyValue(own_etcd.settings()) as kv:
        for _ in range(3):
            put(kv, "/a/1")
        kv.compact(kv.range("/a/").revision)
        followers = [Follower(kv.stream("/a/")) for _ in range(30)]
        for follower in followers:
            for _ in range(100):
                follower.stream.watch("/a/", 1)
        wait_until(lambda: all(len(each.news) == 100 for each in followers), 60, "all have ended")
        wait_until(lambda: own_etcd.metric("etcd_debugging_mvcc_watcher_total") <= 30, 60,
                   "etcd watches nothing but probes")
        assert all(each.ended() for each in followers)


def test_progress_comes_without_changes(tmp_path: Path) -> None:
    every = ("--experimental-watch-progress-notify-interval", "100ms")
    with Etcd(tmp_path, arguments=every) as server, EtcdKeyValue(server.settings()) as kv:
        follower = Follower(kv.stream("/a/"))
        a = follower.stream.watch("/a/", 1)
        revision = put(kv, "/b/1")
        wait_until(lambda: News(a, revision) in follower.news, 20, "progress")
        assert follower.changes(a) == []
        assert follower.ended()
