"""Tests feeds that missed changes which etcd has compacted, and an etcd that went back in time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.store.feeds import feeds as feeds_module
from driver.store.feeds.feeds import Feeds
from driver.store.kv.protocol import Delete, Moment
from tests.support.fakes.kv import FakeStream
from tests.support.faults.watched import Back, EtcdWorld, FakeWorld, Heard, World, in_step, put
from tests.support.run.wait import wait_until

LONG_S = 60.0


@pytest.fixture
def feeds(world: World, back: Back) -> Iterator[Feeds]:
    made = Feeds(world.kv, back)
    yield made
    made.close()


def test_what_was_compacted_meanwhile_is_listed_again(
        world: World, feeds: Feeds, back: Back) -> None:
    put(world.other, "/a/gone")
    heard = {prefix: Heard() for prefix in ("/a/", "/b/")}
    for prefix, each in heard.items():
        feeds.follow(prefix, each)
    wait_until(lambda: all(each.lists for each in heard.values()), LONG_S, "the lists")
    world.cut()
    world.other.commit([], [Delete("/a/gone")])
    put(world.other, "/a/new")
    world.other.compact(put(world.other, "/b/new"))
    world.mend()
    wait_until(lambda: in_step(world, heard), LONG_S, "all is told")
    assert len(heard["/a/"].lists) == 2
    assert back.told == [], "etcd has forgotten, not gone back"
    put(world.other, "/a/on")
    wait_until(lambda: in_step(world, heard), LONG_S, "the feed goes on")


def test_many_are_compacted_at_once(world: World, feeds: Feeds) -> None:
    """etcd 3.4 does not tell all of them: the other watches stay silent for ever (issue 17529)."""
    heard = {f"/many/{number:04}/": Heard() for number in range(500)}
    for prefix, each in heard.items():
        feeds.follow(prefix, each)
    wait_until(lambda: all(each.lists for each in heard.values()), LONG_S, "the lists")
    world.cut()
    for prefix in heard:
        put(world.other, prefix + "1")
    world.other.compact(put(world.other, "/other"))
    world.mend()
    wait_until(lambda: in_step(world, heard), LONG_S, "all is told")


@pytest.mark.parametrize("late", [False, True])
def test_a_compaction_that_etcd_does_not_tell_of(
        monkeypatch: pytest.MonkeyPatch, *, late: bool) -> None:
    """It comes after feeds have asked whether they can go on, and before their watches begin."""
    monkeypatch.setattr(feeds_module, "SETTLED_S", 0.1 if late else 1000.0)
    world, asked = FakeWorld(), []
    keeps, stream = world.kv.keeps, world.kv.stream

    def compacted_after(key: str, revision: int) -> bool:
        found = keeps(key, revision)
        if late and not asked:
            world.other.compact(world.store.revision)
        asked.append(found)
        return found

    def silent(key: str) -> FakeStream:
        made = stream(key)
        assert isinstance(made, FakeStream)
        made.tells_compaction = False
        return made

    monkeypatch.setattr(world.kv, "keeps", compacted_after)
    monkeypatch.setattr(world.kv, "stream", silent)
    feeds, heard = Feeds(world.kv), {prefix: Heard() for prefix in ("/a/", "/b/")}
    for prefix, each in heard.items():
        feeds.follow(prefix, each)
    wait_until(lambda: all(each.lists for each in heard.values()), LONG_S, "the lists")
    world.cut()
    put(world.other, "/a/1")
    put(world.other, "/b/1")
    if not late:
        world.other.compact(world.store.revision)
    world.mend()
    wait_until(lambda: in_step(world, heard), LONG_S, "all is told")
    assert asked[0] is late
    assert len(heard["/a/"].lists) == 2
    feeds.close()


@pytest.mark.parametrize("written", [0, 50], ids=["untouched", "written beyond"])
def test_a_restored_snapshot_is_listed_again(
        world: World, feeds: Feeds, back: Back, written: int) -> None:
    put(world.other, "/a/old", b"first")
    world.save()
    heard = {prefix: Heard() for prefix in ("/a/", "/b/")}
    for prefix, each in heard.items():
        feeds.follow(prefix, each)
    put(world.other, "/a/old", b"second")
    put(world.other, "/a/lost")
    last = put(world.other, "/b/lost")
    wait_until(lambda: all(each.lists for each in heard.values()) and in_step(world, heard),
               LONG_S, "all is told")
    world.cut()
    world.restore()
    for number in range(written):
        put(world.other, f"/c/{number}")
    now = world.other.now("/a/")
    world.mend()
    wait_until(lambda: in_step(world, heard), LONG_S, "what is left is told")
    assert heard["/a/"].now.keys() == {"/a/old"}
    assert back.told == [(Moment(now.cluster, last), now)]
    assert all(len(each.lists) == 2 for each in heard.values())
    put(world.other, "/b/on")
    wait_until(lambda: in_step(world, heard), LONG_S, "the feed goes on")


@pytest.mark.parametrize("told", ["nothing", "a removal"])
def test_a_restored_snapshot_has_all_that_was_told_of_what_is_there(
        world: World, feeds: Feeds, told: str) -> None:
    """It has newer revisions by now; only what came after the snapshot is another history."""
    heard = {"/a/": Heard()}
    put(world.other, "/a/old")
    world.save()
    for _ in range(3):
        put(world.other, "/b/not followed")
    feeds.follow("/a/", heard["/a/"])
    wait_until(lambda: heard["/a/"].lists, LONG_S, "the list")
    if told == "a removal":
        world.other.commit([], [Delete("/a/old")])
        wait_until(lambda: not heard["/a/"].now, LONG_S, "the removal")
    world.cut()
    world.restore()
    if told == "nothing":
        put(world.other, "/a/new")
    for _ in range(20):
        put(world.other, "/c/not followed")
    world.mend()
    put(world.other, "/a/last")
    wait_until(lambda: "/a/last" in heard["/a/"].now, LONG_S, "the feed goes on")
    wait_until(lambda: in_step(world, heard), LONG_S, "all is told")


def test_another_cluster_is_listed_again(world: World, feeds: Feeds, back: Back) -> None:
    heard = {"/a/": Heard()}
    feeds.follow("/a/", heard["/a/"])
    before = Moment(world.other.now("/a/").cluster, put(world.other, "/a/1"))
    wait_until(lambda: heard["/a/"].lists and in_step(world, heard), LONG_S, "all is told")
    world.cut()
    world.replace()
    for _ in range(before.revision + 5):
        put(world.other, "/a/other")
    now = world.other.now("/a/")
    world.mend()
    wait_until(lambda: in_step(world, heard), LONG_S, "what the other one has")
    assert back.told == [(before, now)]
    assert now.cluster != before.cluster


def test_progress_spares_a_list_after_a_compaction(tmp_path: Path) -> None:
    """A feed without changes advances with etcd's progress from the revision of its list."""
    every = ("--experimental-watch-progress-notify-interval", "100ms")
    with EtcdWorld(tmp_path, *every) as world:
        feeds, quiet = Feeds(world.kv), Heard()
        feed = feeds.follow("/quiet/", quiet)
        wait_until(lambda: quiet.lists, LONG_S, "the list")
        revision = put(world.other, "/busy/1")
        wait_until(lambda: feed.position == revision, LONG_S, "progress")
        world.cut()
        world.other.compact(revision)
        put(world.other, "/quiet/1")
        world.mend()
        wait_until(lambda: quiet.changes, LONG_S, "the change")
        assert len(quiet.lists) == 1
        feeds.close()
