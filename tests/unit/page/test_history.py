"""Tests what is kept of the last hour."""

from __future__ import annotations

from driver.api.page.history import EVERY_S, KEPT, History, sample
from tests.support.fakes.pictures import Pictures


def test_a_sample_has_this_hosts_share_alone() -> None:
    picture = Pictures(hosts=2, endpoints=2).answer(True)
    picture["Totals"] = [
        {"Host": host, "Path": path, "OpenedPerSecond": opened, "BytesInPerSecond": came,
         "BytesOutPerSecond": went} for host, path, opened, came, went in (
             ("h0", "host", 1.5, 10.0, 5.0), ("h1", "host", 100.0, 100.0, 100.0),
             ("h0", "local", 0.0, 10.0, 10.0), ("h0", "another", 0.5, 1.0, 1.0))]
    picture["Reasons"] = [
        {"Host": host, "Name": "x", "PerSecond": per_s, "Total": 1, "Kind": kind}
        for host, kind, per_s in (("h0", "drop", 1.0), ("h0", "drop", 2.0), ("h1", "drop", 50.0),
                                  ("h0", "fallback", 4.0), ("h0", "other", 9.0))]
    assert sample(picture) == {
        "At": picture["At"], "Opened": 2.0, "Drops": 3.0, "Fallbacks": 4.0,
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


def test_before_there_are_rates_there_is_no_sample() -> None:
    history, picture = History(), Pictures().answer(False)
    assert not history.add(picture | {"Totals": []})
    assert history.add(picture)
