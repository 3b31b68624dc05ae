"""Tests what is said of each host: whether it tells, what is missing, and why."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from driver.model import Host, HostId
from driver.services.ports import HostSeen, Summary
from driver.services.watching import states
from driver.services.watching.sharing import Heard, Others

ME, OTHER = HostId("a" * 32), HostId("b" * 32)
THERE = Host(OTHER, "node2", IPv4Address("198.18.0.2"), version="1.1")
SUMMARY = Summary(OTHER, "1.2", every_s=2.0, problems=("not all of web: it is slow",))
NOW_S = 1000.0


def state(heard: Heard | None, *, since_s: float = 100.0, registered: bool = True,
          gone: bool = False, problem: str = "") -> states.HostState:
    found, = states.all_others(ME, [
        HostSeen(THERE, registered, gone),
        HostSeen(Host(ME, "node1", IPv4Address("198.18.0.1")), registered=True, gone=False)],
        Others(since_s, {OTHER: heard} if heard else {}, problem), NOW_S)
    assert (found.id, found.name, found.address) == (OTHER, "node2", "198.18.0.2")
    return found


def test_one_that_tells() -> None:
    found = state(Heard(1, NOW_S - 3, SUMMARY))
    assert (found.state, found.version, found.age_s, found.summary) == ("ok", "1.2", 3.0, SUMMARY)
    assert found.problems == ("not all of web: it is slow",)


@pytest.mark.parametrize(("heard", "more", "wanted", "said"), [
    (None, {"since_s": NOW_S - 2}, "unknown", "asked a moment ago"),
    (None, {}, "silent", "asked for 900 s"),
    (None, {"registered": False}, "silent", "has no lease"),
    (None, {"registered": False, "gone": True}, "gone", "no sign of life"),
    (None, {"problem": "etcd is away"}, "silent", "cannot be asked: etcd does not"),
    (None, {"problem": "etcd is away", "since_s": NOW_S}, "silent", "cannot be asked"),
    (Heard(1, NOW_S - 30, SUMMARY), {}, "silent", "told nothing for 30 s"),
    (Heard(1, NOW_S - 30, SUMMARY), {"registered": False}, "silent", "has no lease"),
    (Heard(1, NOW_S, SUMMARY, "x in etcd cannot be read"), {}, "unknown", "cannot be read"),
    (Heard(1, NOW_S, None, "x in etcd has schema 2"), {}, "unknown", "schema 2"),
    (Heard(1, NOW_S, SUMMARY), {"gone": True, "registered": False}, "gone", "no sign of life")])
def test_one_that_does_not(heard: Heard | None, more: dict[str, object], wanted: str, said: str
                           ) -> None:
    found = state(heard, **more)  # type: ignore[arg-type]
    assert found.state == wanted
    assert said in found.problems[0]
    assert len(found.problems) == 1
    # What it told last is kept.
    assert found.summary is (heard.summary if heard else None)


def test_a_slow_sampler_is_not_silent() -> None:
    """A host with many connections samples rarely, and says so."""
    slow = Summary(OTHER, every_s=60.0)
    assert state(Heard(1, NOW_S - 100, slow)).state == "ok"


def test_one_that_was_forgotten_meanwhile_is_not_left_out() -> None:
    found, = states.all_others(ME, [], Others(0.0, {OTHER: Heard(1, NOW_S - 5, SUMMARY)}), NOW_S)
    assert (found.id, found.state, found.age_s) == (OTHER, "silent", 5.0)
    assert "not registered" in found.problems[0]
