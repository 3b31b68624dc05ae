"""Tests when etcd's members give unused space back: one at a time, the leader last."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from driver.cluster.etcd.tidying import LOOK_S, WASTE_BYTES, Tidying
from driver.cluster.model import Member, MemberHealth, client_url, peer_url
from driver.errors import StoreUnavailable

MEMBERS = tuple(Member(number, f"h{number}", (peer_url(f"192.0.2.{number}"),),
                       (client_url(f"192.0.2.{number}"),)) for number in (1, 2, 3))


@dataclass
class Etcd:
    """Members with used and allocated bytes; what was defragmented, in order."""

    waste: dict[int, tuple[int, int]]
    done: list[str] = field(default_factory=list)
    raised: tuple[str, ...] = ()
    asked: int = 0

    def health(self, members: Iterable[Member]) -> dict[int, MemberHealth]:
        return {each.id: MemberHealth("3.4", *self.waste[each.id], 1, False)
                for each in members if each.id in self.waste}

    def defragment(self, url: str) -> None:
        self.done.append(url)

    def alarms(self) -> list[str]:
        self.asked += 1
        return list(self.raised)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def rounds(etcd: Etcd, count: int = 1, settle: bool = True) -> list[str]:
    clock = Clock()
    tidying = Tidying(etcd, etcd, clock)  # type: ignore[arg-type]
    for _ in range(count):
        tidying.act(MEMBERS)
        clock.now_s += LOOK_S + 1
        for member in MEMBERS if settle else ():
            if etcd.done and etcd.done[-1] == member.client_urls[0]:
                etcd.waste[member.id] = (1, 1)
    return [url.partition("192.0.2.")[2][0] for url in etcd.done]


MUCH = (1 << 20, WASTE_BYTES + (2 << 20))


def test_the_leader_is_last_and_none_twice() -> None:
    assert rounds(Etcd({1: MUCH, 2: MUCH, 3: MUCH}), 6) == ["2", "3", "1"]


def test_one_at_a_time() -> None:
    assert len(rounds(Etcd({1: MUCH, 2: MUCH, 3: MUCH}), 1)) == 1


@pytest.mark.parametrize("waste", [(1, 1), (1, WASTE_BYTES), (1 << 30, (2 << 30) - 1), (0, 0)])
def test_little_waste_is_left(waste: tuple[int, int]) -> None:
    assert rounds(Etcd({1: waste, 2: waste, 3: waste}), 3) == []


def test_none_rests_while_another_one_does_not_answer() -> None:
    assert rounds(Etcd({1: MUCH, 2: MUCH}), 3) == []


def test_it_looks_once_a_minute() -> None:
    clock, etcd = Clock(), Etcd({})
    tidying = Tidying(etcd, etcd, clock)  # type: ignore[arg-type]
    for _ in range(100):
        tidying.act(MEMBERS)
        clock.now_s += LOOK_S / 10
    assert etcd.asked == 10


def test_a_full_etcd_is_told_of_with_what_to_type(caplog: pytest.LogCaptureFixture) -> None:
    rounds(Etcd({}, raised=("CORRUPT",)))
    assert "NOSPACE" not in caplog.text
    rounds(Etcd({}, raised=("NOSPACE",)))
    assert "slim cluster tidy" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_etcd_is_away() -> None:
    class Away(Etcd):
        def alarms(self) -> list[str]:
            raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        rounds(Away({}))
