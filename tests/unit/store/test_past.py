"""A store is recognised by what it remembers, and asked what it has compacted."""

from __future__ import annotations

import pytest

from driver.store.feeds.past import Past, compacted
from driver.store.kv.protocol import Change, Entry, Moment, Put
from tests.support.fakes.kv import FakeKeyValue

HERE = Moment(7, 10)


class Asked(FakeKeyValue):
    """Counts questions; remembers and keeps what the test says."""

    def __init__(self, *, remembers: bool = True, keeps_from: int = 0) -> None:
        super().__init__()
        self._remembers, self._keeps_from = remembers, keeps_from
        self.asked: list[int] = []

    def remembers(self, change: Change) -> bool:
        self.asked.append(change.mod_revision)
        return self._remembers

    def keeps(self, key: str, revision: int) -> bool:
        self.asked.append(revision)
        return revision >= self._keeps_from


@pytest.mark.parametrize(("now", "gone_back"), [
    (HERE, False), (Moment(7, 11), False), (Moment(7, 9), True), (Moment(8, 10), True)])
def test_cluster_and_revision(now: Moment, *, gone_back: bool) -> None:
    assert Past(HERE).contradicted(Asked(), now) is gone_back


@pytest.mark.parametrize("remembers", [True, False])
def test_the_witness_is_the_last_change_that_was_told(*, remembers: bool) -> None:
    past = Past(HERE).with_entries(12, [Entry("/a", b"", 4), Entry("/b", b"", 11)])
    past = past.with_changes(15, [Change("/c", b"", 14), Change("/d", None, 15)])
    past = past.with_entries(13, [Entry("/e", b"", 13)])
    assert past.moment == Moment(7, 15)
    kv = Asked(remembers=remembers)
    assert past.contradicted(kv, Moment(7, 15)) is not remembers
    assert kv.asked == [15]


@pytest.mark.parametrize("keeps_from", range(12))
def test_what_is_compacted(keeps_from: int) -> None:
    kv, revisions = Asked(keeps_from=keeps_from), [9, 3, 5, 5, 7, 1]
    assert compacted(kv, "/", revisions) == {r for r in revisions if r < keeps_from}
    assert len(kv.asked) <= 4
    if keeps_from <= 1:
        assert kv.asked == [1], "one question where nothing is"


def test_the_fake_agrees() -> None:
    kv = FakeKeyValue()
    revisions = [kv.commit([], [Put("/a", b"")]) for _ in range(5)]
    kv.compact(revisions[3])
    assert compacted(kv, "/", revisions) == set(revisions[:3])
    assert compacted(kv, "/", []) == set()
