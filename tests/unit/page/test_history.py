"""Tests what is kept of the last hour."""

from __future__ import annotations

from driver.api.page.history import EVERY_S, KEPT, History, sample
from tests.support.fakes.pictures import Pictures


def test_a_sample_has_this_hosts_share_alone() -> None:
    picture = Pictures(hosts=2, endpoints=2).answer(True)
    picture["Pairs"] = [
        {"Reporter": "h0", "Path": "host", "OpenedPerSecond": 1.5,
         "BytesInPerSecond": 10.0, "BytesOutPerSecond": 5.0},
        {"Reporter": "h1", "Path": "host", "OpenedPerSecond": 100.0,
         "BytesInPerSecond": 100.0, "BytesOutPerSecond": 100.0},
        *({"Reporter": "h0", "Path": "local", "OpenedPerSecond": 0.0,
           "BytesInPerSecond": came, "BytesOutPerSecond": went}
          for came, went in ((7.0, 3.0), (3.0, 7.0)))]
    picture["Reasons"] = [
        {"Host": host, "Name": "x", "PerSecond": per_s, "Total": 1, "Kind": kind}
        for host, kind, per_s in (("h0", "drop", 1.0), ("h0", "drop", 2.0), ("h1", "drop", 50.0),
                                  ("h0", "fallback", 4.0), ("h0", "other", 9.0))]
    assert sample(picture) == {
        "At": picture["At"], "Opened": 1.5, "Drops": 3.0, "Fallbacks": 4.0,
        "Bytes": {"host": 15.0, "overlay": 0.0, "local": 10.0, "outside": 0.0}}


def test_it_takes_one_each_ten_seconds_and_forgets_after_an_hour() -> None:
    history, pictures = History(), Pictures()
    picture = pictures.answer(False)
    begun = picture["At"]
    taken = [history.add(picture | {"At": begun + second})
             for second in range(0, int(KEPT * EVERY_S) + 100, 2)]
    assert taken[:6] == [True, False, False, False, False, True]
    kept = history.all()
    assert len(kept) == KEPT
    assert kept[-1]["At"] - kept[0]["At"] == (KEPT - 1) * EVERY_S


def test_a_clock_that_is_set_back_does_not_stop_it() -> None:
    history, picture = History(), Pictures().answer(False)
    assert history.add(picture)
    assert history.add(picture | {"At": picture["At"] - 3600})
