"""Tests driver.store.feeds.feeds.Feeds over the fake and over a real etcd."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from driver.store.etcd.client import EtcdKeyValue
from driver.store.feeds import feeds as feeds_module
from driver.store.feeds.feeds import Feeds
from driver.store.kv.protocol import Delete, Moment, Put
from tests.support.fakes.kv import FakeStream
from tests.support.faults.watched import Back, EtcdWorld, FakeWorld, Heard, World, in_step, put
from tests.support.run.wait import wait_until
from tests.support.world.etcd import EtcdCluster

LONG_S = 60.0


@pytest.fixture
def feeds(world: World, back: Back) -> Iterator[Feeds]:
    made = Feeds(world.kv, back)
    yield made
    made.close()

def test_a_list_and_what_comes_after_it(world: World, feeds: Feeds) -> None:
    put(world.other, "/a/1", b"one")
    put(world.other, "/b/1", b"other")
    heard = Heard()
    feed = feeds.follow("/a/", heard)
    wait_until(lambda: heard.lists, LONG_S, "the list")
    assert heard.lists == [world.other.now("/a/").revision]
    revision = put(world.other, "/a/2", b"two")
    world.other.commit([], [Delete("/a/1")])
    wait_until(lambda: heard.now == {"/a/2": (b"two", revision)}, LONG_S, "the changes")
    assert [c.mod_revision for c in heard.changes] == [revision, revision + 1]
    feed.close()
    put(world.other, "/a/3")
    again = Heard()
    feeds.follow("/a/", again)
    wait_until(lambda: "/a/3" in again.now, LONG_S, "another feed of the same prefix")
    assert "/a/3" not in heard.now, "a closed one hears nothing"


def test_nothing_is_lost_across_cut_connections(world: World, feeds: Feeds, back: Back) -> None:
    heard = {f"/{name}/": Heard() for name in "abc"}
    for prefix, each in heard.items():
        feeds.follow(prefix, each)
    wait_until(lambda: all(each.lists for each in heard.values()), LONG_S, "the lists")
    for number in range(90):
        if number in (10, 40, 70):
            world.cut()
        if number in (20, 45, 80):
            world.mend()
            wait_until(lambda: in_step(world, heard), LONG_S, "all is told")
        put(world.other, f"/{'abc'[number % 3]}/key", str(number).encode())
    wait_until(lambda: in_step(world, heard), LONG_S, "all is told")
    for first, each in enumerate(heard.values()):
        assert each.values() == [str(n).encode() for n in range(first, 90, 3)]
        assert len(each.lists) == 1, "it went on from where it was"
    assert back.told == []


def test_removals_only(world: World, feeds: Feeds) -> None:
    """It neither lists nor tells puts; after a cut it goes on from where it was."""
    for name in "123":
        put(world.other, f"/a/{name}")
    heard = Heard()
    feeds.follow("/a/", heard, removals=True)
    wait_until(lambda: heard.lists, LONG_S, "that it follows")
    assert heard.now == {}
    put(world.other, "/a/4")
    world.other.commit([], [Delete("/a/1")])
    wait_until(lambda: heard.changes, LONG_S, "the first removal")
    world.cut()
    world.other.commit([], [Delete("/a/2")])
    put(world.other, "/a/5")
    world.mend()
    wait_until(lambda: len(heard.changes) == 2, LONG_S, "the second removal")
    assert [(each.key, each.value) for each in heard.changes] == [("/a/1", None), ("/a/2", None)]
    assert len(heard.lists) == 1
    world.cut()
    world.other.commit([], [Delete("/a/3")])
    world.other.compact(put(world.other, "/a/6"))
    world.mend()
    wait_until(lambda: len(heard.lists) == 2, LONG_S, "that some may have been missed")


def test_it_begins_without_etcd(world: World, feeds: Feeds) -> None:
    world.cut()
    heard = Heard()
    feeds.follow("/a/", heard)
    revision = put(world.other, "/a/1")
    silent_s = feeds.silent_s()
    wait_until(lambda: feeds.silent_s() > silent_s, LONG_S, "the silence lasts")
    world.mend()
    wait_until(lambda: heard.now == {"/a/1": (b"v", revision)}, LONG_S, "the list")
    assert feeds.relists() == 0


def test_silence_ends_with_a_sign_of_life(world: World, feeds: Feeds) -> None:
    """Also while nothing changes: the stream is probed."""
    feeds.follow("/a/", heard := Heard())
    wait_until(lambda: heard.lists, LONG_S, "the list")
    world.cut()
    wait_until(lambda: feeds.silent_s() > 1.0, LONG_S, "the silence is noticed")
    world.mend()
    wait_until(lambda: feeds.silent_s() < 1.0, LONG_S, "etcd is heard again")


def test_many_prefixes_on_one_stream_and_few_threads(world: World, feeds: Feeds) -> None:
    threads = threading.active_count()
    heard = {f"/many/{number:04}/": Heard() for number in range(500)}
    before = world.streams()
    for prefix, each in heard.items():
        feeds.follow(prefix, each)
    wait_until(lambda: all(each.lists for each in heard.values()), LONG_S, "the lists")
    keys_ = [prefix + "1" for prefix in heard]
    for start in range(0, 500, 100):
        assert world.other.commit([], [Put(key, b"") for key in keys_[start:start + 100]])
    wait_until(lambda: all(len(each.changes) == 1 for each in heard.values()), LONG_S,
               "a change for each")
    assert world.streams() == before + 1
    # One for the stream, THREADS for listeners; gRPC's for this connection and for its requests.
    assert threading.active_count() <= threads + 1 + feeds_module.THREADS + 2


def test_closing_one_while_others_go_on(world: World, feeds: Feeds) -> None:
    heard = {f"/a/{name}/": Heard() for name in "xyz"}
    followed = {prefix: feeds.follow(prefix, each) for prefix, each in heard.items()}
    wait_until(lambda: all(each.lists for each in heard.values()), LONG_S, "the lists")
    closed = heard.pop("/a/y/")
    followed["/a/y/"].close()
    followed["/a/y/"].close()
    for prefix in followed:
        put(world.other, prefix + "1")
    wait_until(lambda: in_step(world, heard), LONG_S, "the others' changes")
    assert closed.changes == []
    assert all(len(each.lists) == 1 for each in heard.values())
    if isinstance(world, EtcdWorld):
        wait_until(lambda: world.server.metric("etcd_debugging_mvcc_watcher_total") == 2, LONG_S,
                   "etcd watches for nobody")


def test_a_feed_may_be_closed_by_its_listener(world: World, feeds: Feeds) -> None:
    def end() -> None:
        feed.close()

    heard = Heard(end)
    feed = feeds.follow("/a/", heard)
    wait_until(lambda: heard.lists, LONG_S, "the list")
    other = Heard()
    feeds.follow("/a/", other)
    wait_until(lambda: other.lists, LONG_S, "the other one's list")
    put(world.other, "/a/1")
    wait_until(lambda: other.changes, LONG_S, "the change")
    assert heard.changes == []


def test_a_listener_that_raises_is_listed_again_alone_and_after_a_pause(
        world: World, back: Back, caplog: pytest.LogCaptureFixture) -> None:
    feeds = Feeds(world.kv, back, jitter=lambda: 0.5)
    left = [3]

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise ValueError("a mistake")

    bad, good = Heard(fail), Heard()
    began_s = time.monotonic()
    for prefix, each in (("/bad/", bad), ("/good/", good)):
        feeds.follow(prefix, each)
    wait_until(lambda: bad.lists and good.lists, LONG_S, "both lists")
    # Three pauses of at least half of 0.5, 1 and 2 seconds.
    assert time.monotonic() - began_s > 1.75
    left[0] = 1
    for number in range(3):
        put(world.other, "/bad/1", str(number).encode())
        put(world.other, "/good/1", str(number).encode())
    heard = {"/bad/": bad, "/good/": good}
    wait_until(lambda: in_step(world, heard), LONG_S, "all is told")
    assert (len(bad.lists), len(good.lists)) == (2, 1)
    assert "/bad/: the listener failed" in caplog.text
    assert "/good/" not in caplog.text
    feeds.close()


def test_a_slow_listener_holds_up_nobody_and_little_memory(
        world: World, feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds_module, "WAITING_MAX", 50)
    go_on = threading.Event()
    slow, quick = Heard(lambda: go_on.wait(LONG_S) and None), Heard()
    go_on.set()
    followed = [feeds.follow(prefix, each) for prefix, each in (
        ("/slow/", slow), ("/quick/", quick))]
    wait_until(lambda: slow.lists and quick.lists, LONG_S, "the lists")
    go_on.clear()
    most = 0
    for number in range(300):
        put(world.other, "/slow/1", str(number).encode())
        put(world.other, "/quick/1", str(number).encode())
        wait_until(lambda n=number: len(quick.changes) == n + 1, LONG_S,  # type: ignore[misc]
                   "the quick one's change")
        most = max(most, sum(len(feed.waiting) for feed in followed))
    assert 40 < most <= 51
    assert len(quick.lists) == 1
    go_on.set()
    wait_until(lambda: in_step(world, {"/slow/": slow}), LONG_S, "the slow one is in step")
    assert len(slow.lists) == 2
    assert feeds.relists() == 1
    assert len(slow.changes) < 300
    assert not any(feed.waiting for feed in followed)


def test_the_fake_tells_progress_when_the_test_says_so() -> None:
    world = FakeWorld()
    feeds, quiet = Feeds(world.kv), Heard()
    feed = feeds.follow("/quiet/", quiet)
    wait_until(lambda: quiet.lists, LONG_S, "the list")
    revision = put(world.other, "/busy/1")
    world.store.tell_progress()
    wait_until(lambda: feed.position == revision, LONG_S, "progress")
    feeds.close()


def test_the_leader_changes(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path) as cluster, EtcdKeyValue(cluster.settings()) as kv, \
            EtcdKeyValue(cluster.settings()) as other:
        back = Back()
        feeds, heard = Feeds(kv, back), Heard()
        feeds.follow("/a/", heard)
        put(other, "/a/key", b"0")
        wait_until(lambda: heard.now, LONG_S, "the first change")
        for number in range(1, 4):
            leader = cluster.leader()
            leader.stop()
            put_when_possible(other, "/a/key", str(number).encode())
            wait_until(lambda n=number: heard.now["/a/key"][0] == str(n).encode(),  # type: ignore[misc]
                       LONG_S, "the change of after")
            cluster.restart(leader)
        assert len(heard.lists) == 1
        assert back.told == []
        feeds.close()


def put_when_possible(kv: EtcdKeyValue, key: str, value: bytes) -> None:
    def tried() -> bool:
        try:
            return bool(kv.commit([], [Put(key, value)]))
        except Exception:
            return False

    wait_until(tried, LONG_S, "a write")


def test_no_thread_is_left(world: World) -> None:
    before = threading.active_count()
    feeds, heard = Feeds(world.kv), [Heard() for _ in range(10)]
    for number, each in enumerate(heard):
        feeds.follow(f"/a/{number}/", each)
    wait_until(lambda: all(each.lists for each in heard), LONG_S, "the lists")
    world.cut()
    world.mend()
    feeds.close()
    if isinstance(world.kv, EtcdKeyValue):
        world.kv.close()
    wait_until(lambda: threading.active_count() <= before, LONG_S, "the threads are gone")
    late = Heard()
    feeds.follow("/a/", late).close()
    assert threading.active_count() <= before


def test_a_member_that_lags_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would repeat old changes, and proves nothing."""
    world, back = FakeWorld(), Back()
    feeds, heard = Feeds(world.kv, back), Heard()
    feeds.follow("/a/", heard)
    wait_until(lambda: heard.lists, LONG_S, "the list")
    told = put(world.other, "/a/1")
    wait_until(lambda: heard.changes, LONG_S, "the change")
    opened: list[FakeStream] = []

    def stream(key: str) -> FakeStream:
        made = FakeStream(world.store)
        if len(opened) < 2:
            made.opened = replace(made.opened, revision=told - 1)
        opened.append(made)
        return made

    monkeypatch.setattr(world.kv, "stream", stream)
    world.store.break_streams()
    put(world.other, "/a/2")
    wait_until(lambda: len(heard.changes) == 2, LONG_S, "the next change")
    assert len(opened) == 3
    assert all(made.closed for made in opened[:2])
    assert (len(heard.lists), back.told) == (1, [])
    feeds.close()


def test_an_outage_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = FakeWorld()
    feeds, heard = Feeds(world.kv, jitter=lambda: 0.0), Heard()
    asked: list[str] = []
    now = world.kv.now

    def counted(key: str) -> Moment:
        asked.append(key)
        return now(key)

    world.kv.now = counted  # type: ignore[method-assign]
    feeds.follow("/a/", heard)
    wait_until(lambda: heard.lists, LONG_S, "the list")
    world.cut()
    wait_until(lambda: len(asked) > 5, LONG_S, "several attempts")
    world.mend()
    put(world.other, "/a/1")
    wait_until(lambda: heard.changes, LONG_S, "the change")
    feeds.close()
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_all_is_told_in_the_end(
        seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes, cuts, compaction, snapshots, listeners that fail, feeds that come and go."""
    monkeypatch.setattr(feeds_module, "WAITING_MAX", 20)
    monkeypatch.setattr(feeds_module, "PAUSES_S", (0.01,))
    world, back, chance = FakeWorld(), Back(), random.Random(seed)
    feeds = Feeds(world.kv, back)
    fails = random.Random(seed)

    def stumble() -> None:
        if fails.random() < 0.05:
            raise ValueError("a mistake")

    heard: dict[str, Heard] = {}
    followed = {}
    for _ in range(400):
        prefix = f"/{chance.choice('abcde')}/"
        match chance.choice(["put"] * 12 + ["delete"] * 4 + ["follow"] * 3 + [
                "close", "cut", "mend", "compact", "save", "restore", "progress"]):
            case "put":
                put(world.other, prefix + chance.choice("123"), str(chance.random()).encode())
            case "delete":
                world.other.commit([], [Delete(prefix + chance.choice("123"))])
            case "follow" if prefix not in followed:
                heard[prefix] = Heard(stumble)
                followed[prefix] = feeds.follow(prefix, heard[prefix])
            case "close" if prefix in followed:
                followed.pop(prefix).close()
                del heard[prefix]
            case "cut":
                world.cut()
            case "mend":
                world.mend()
            case "compact":
                world.other.compact(world.store.revision)
            case "save":
                world.save()
            case "restore":
                world.restore()  # ends all connections: nobody may write before that is noticed
                wait_until(world.store.noticed, LONG_S, "the stream's end is noticed")
            case "progress":
                world.store.tell_progress()
    world.mend()
    for prefix in "abcde":
        put(world.other, f"/{prefix}/last")
    wait_until(lambda: in_step(world, heard), LONG_S, "all is told")
    assert heard
    feeds.close()
    # Inside: what leaks here shows nowhere else, until feeds list again for no reason.
    assert feeds._waiting == 0
    assert not feeds._watched
