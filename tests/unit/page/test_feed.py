"""Tests when the driver is asked, what browsers are told, and that no browser is left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from driver.api.page.feed import BROWSERS, FOLLOWED_EVERY_S, Feed, TooManyError
from driver.errors import SlimError
from tests.support.fakes.pictures import Pictures
from tests.support.run.wait import wait_until


@contextmanager
def running(feed: Feed) -> Iterator[Feed]:
    feed.start()
    try:
        yield feed
    finally:
        feed.stop()
        feed.stop()


def read(chunk: bytes) -> list[tuple[str, Any]]:
    found = []
    for text in chunk.decode().split("\n\n")[:-1]:
        kind, data = text.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_while_nobody_follows_only_this_host_is_asked_for() -> None:
    pictures = Pictures()
    with running(Feed(pictures.answer)) as feed:
        wait_until(lambda: pictures.asked, 10, "a first question")
        assert pictures.asked == [False]
        assert feed.followers == 0


def test_all_followers_are_told_the_same_by_one_question() -> None:
    pictures = Pictures()
    with (running(Feed(pictures.answer)) as feed, closing(feed.follow()) as one,
          closing(feed.follow()) as other):
        assert [kind for kind, _ in read(next(one))] == ["history"]
        next(other)
        first, second = next(one), next(other)
        assert first == second
        assert read(first)[-1][0] == "picture"
        assert read(first)[-1][1]["Hosts"][0]["Id"] == "h0"
        assert pictures.asked[-1] is True


def test_a_picture_of_before_is_not_shown_to_who_comes_later() -> None:
    """It may be of this host alone."""
    pictures = Pictures()
    with running(Feed(pictures.answer)) as feed:
        wait_until(lambda: pictures.asked, 10, "a first question")
        with closing(feed.follow()) as events:
            assert [(kind, len(data)) for kind, data in read(next(events))] == [("history", 1)]
            assert read(next(events))[-1][0] == "picture"
        assert pictures.asked[:2] == [False, True]


def test_questions_keep_their_pace_whatever_browsers_do() -> None:
    now_s = [100.0]
    pictures = Pictures()
    with running(Feed(pictures.answer, clock=lambda: now_s[0])) as feed:
        wait_until(lambda: pictures.asked, 10, "a first question")
        for _ in range(30):
            feed.follow().close()
        with closing(feed.follow()) as events:
            next(events)
            assert pictures.asked == [False]
            now_s[0] += FOLLOWED_EVERY_S
            feed.follow().close()  # wakes the feed, which looks at the clock
            assert read(next(events))[-1][0] == "picture"
            assert pictures.asked == [False, True]


def test_no_more_than_so_many() -> None:
    feed = Feed(Pictures().answer)
    followers = [feed.follow() for _ in range(BROWSERS)]
    with pytest.raises(TooManyError, match="20 browsers have this page open"):
        feed.follow()
    followers[0].close()
    followers[0].close()
    assert feed.followers == BROWSERS - 1
    feed.follow()


@pytest.mark.parametrize(("fault", "said"), [
    (SlimError("no driver answers on /run/x"), "no driver answers on /run/x"),
    (ValueError("y"), "the driver's answer is not understood (y)")])
def test_trouble_is_told_and_ends(fault: Exception, said: str) -> None:
    pictures, faults = Pictures(), [fault, fault]

    def ask(cluster: bool) -> dict[str, Any]:
        if faults:
            raise faults.pop()
        return pictures.answer(cluster)

    with running(Feed(ask)) as feed, closing(feed.follow()) as events:
        told = [event for _ in range(4) if (event := read(next(events))[-1])[0] != "history"]
        assert told[0][0] == "trouble"
        assert told[0][1].startswith(said)
        assert told[-1][0] == "picture"


@pytest.mark.parametrize("answer", [{}, {"Hosts": []}, {"Hosts": [], "Networks": {}}])
def test_another_versions_answer(answer: dict[str, Any]) -> None:
    with running(Feed(lambda _: answer)) as feed, closing(feed.follow()) as events:
        next(events)
        assert "of one version?" in read(next(events))[0][1]


def test_whoever_follows_is_let_go_at_the_end() -> None:
    feed = Feed(Pictures().answer)
    feed.start()
    events = feed.follow()
    next(events)
    feed.stop()
    assert [read(each)[-1][0] for each in events] in ([], ["picture"])
