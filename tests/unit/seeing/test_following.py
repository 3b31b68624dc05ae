"""Tests who is told which events, how much is lost, and that nobody can make the driver busy."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address

import pytest

from driver.errors import DatapathError, InvalidArgument, SlimError
from driver.model import Vni
from driver.services.ports import Ending, Event, EventKind
from driver.services.seeing import following
from driver.services.seeing.following import BATCH, FOLLOWERS, KEPT, READ, WATCH_S, Following
from tests.support.run.wait import wait_until


def event(number: int = 0, **changes: object) -> Event:
    return Event(**{  # type: ignore[arg-type]
        "at_ns": 0, "kind": EventKind.CONNECT, "reason": "connected", "inbound": False,
        "vni": Vni(1), "local": ip_address("10.32.0.2"), "local_port": 0,
        "peer": ip_address("10.32.0.6"), "peer_port": 80, "host": None, "task": None, "times": 0,
        "lasted_ns": 0, "received_bytes": 0, "sent_bytes": 0, "ending": Ending.NOT,
        "socket": number, **changes})


class Kernel:
    """ports.Events: raw events are a number, negative ones are refusals."""

    def __init__(self) -> None:
        self.waiting: deque[int] = deque()
        self.gone = 0
        self.watched: tuple[float, int] | None = None
        self.taken: list[int] = []
        self.failing = 0
        self._news = threading.Condition()
        self._woken = False

    def tell(self, *numbers: int) -> None:
        with self._news:
            self.waiting += numbers
            self._news.notify_all()

    def wait(self) -> None:
        with self._news:
            self._news.wait_for(lambda: self.waiting or self._woken)
            if self.failing and not self._woken:
                self.failing -= 1
                raise DatapathError("the ring is away")

    def wake(self) -> None:
        with self._news:
            self._woken = True
            self._news.notify_all()

    def take(self, most: int) -> Sequence[bytes]:
        with self._news:
            found = [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]
        self.taken.append(len(found))
        return [number.to_bytes(8, "big", signed=True) for number in found]

    def is_refusal(self, raw: bytes) -> bool:
        return int.from_bytes(raw, "big", signed=True) < 0

    def read(self, raw: bytes) -> Event:
        return event(int.from_bytes(raw, "big", signed=True))

    def lost(self) -> int:
        return self.gone

    def watch(self, for_s: float, cookie: int = 0) -> None:
        self.watched = for_s, cookie


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        self.now_s += 0.002  # so that nobody waits for ever
        return self.now_s


Made = tuple[Following, Kernel, Clock, list[Event]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    monkeypatch.setattr(following, "PAUSE_S", 0.0)
    monkeypatch.setattr(following, "WAIT_S", 0.01)
    kernel, clock = Kernel(), Clock()
    refused: list[Event] = []
    use = Following(kernel, refused.extend, clock)
    use.start()
    try:
        yield use, kernel, clock, refused
    finally:
        use.stop()


def every(_event: Event) -> bool:
    return True


def gather(use: Following, after: str, count: int,
           wanted: Callable[[Event], bool] = every) -> tuple[list[int], int, str]:
    """Return the numbers of so many events, how many were lost, and the place."""
    seen: list[int] = []
    lost = 0
    for _ in range(10_000):
        batch = use.follow(wanted, after)
        assert not batch.paused
        seen += [each.socket for each in batch.events]
        lost += batch.lost
        after = batch.next
        if len(seen) + lost >= count:
            return seen, lost, after
    raise AssertionError(f"{seen}, {lost}")


def test_each_once_and_in_order(made: Made) -> None:
    use, kernel, _, _ = made
    after = use.follow(every, "").next
    kernel.tell(*range(1, 1201))
    assert gather(use, after, 1200)[:2] == (list(range(1, 1201)), 0)
    assert max(kernel.taken) <= BATCH


def test_an_answer_is_bounded(made: Made) -> None:
    use, kernel, clock, _ = made
    after = use.follow(every, "").next
    kernel.tell(*range(1, READ + 100))
    clock.now_s -= 1  # its time does not matter
    seen, _, _ = gather(use, after, READ + 99)
    assert len(seen) == READ + 99
    use.follow(every, "")
    for _ in range(3):
        assert len(use.follow(every, after).events) <= READ


def test_several_followers_see_the_same(made: Made) -> None:
    use, kernel, _, _ = made
    one, other = use.follow(every, "").next, use.follow(every, "").next
    kernel.tell(1, 2, 3)
    assert gather(use, one, 3)[0] == gather(use, other, 3)[0] == [1, 2, 3]
    kernel.tell(4)
    odd, lost, _ = gather(use, one, 2, lambda each: each.socket % 2 == 1)
    assert (odd, lost) == ([1, 3], 0)


def test_nothing_is_kept_while_nobody_follows(made: Made) -> None:
    use, kernel, clock, refused = made
    kernel.tell(1, 2, -3)
    wait_until(lambda: sum(kernel.taken) == 3 and refused, 60, "they are read")
    after = use.follow(every, "").next
    kernel.tell(4)
    assert gather(use, after, 1)[0] == [4]
    assert [each.socket for each in refused] == [-3]  # these are told at any time
    clock.now_s += WATCH_S
    kernel.tell(5)
    batch = use.follow(every, after)
    assert (batch.paused, batch.events) == (True, ())


def test_what_the_kernel_has_lost(made: Made) -> None:
    use, kernel, _, _ = made
    after = use.follow(every, "").next
    kernel.gone = 7
    kernel.tell(1)
    seen, lost, after = gather(use, after, 8)
    assert (seen, lost) == ([1], 7)
    kernel.tell(2)
    assert gather(use, after, 1)[:2] == ([2], 0)


def test_what_was_lost_before_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSE_S", 0.0)
    kernel = Kernel()
    kernel.gone = 99
    use = Following(kernel, lambda _: None, Clock())
    use.start()
    after = use.follow(every, "").next
    kernel.tell(1)
    assert gather(use, after, 1)[:2] == ([1], 0)
    use.stop()
    assert kernel.watched == (0, 0)


def test_who_is_slow_loses_the_oldest(made: Made) -> None:
    use, kernel, clock, _ = made
    after = use.follow(every, "").next
    clock.now_s -= 100  # it is slow, but has not gone
    kernel.tell(*range(1, KEPT + 501))
    fast = use.follow(lambda each: each.socket == KEPT + 500, after)
    while not fast.events:
        fast = use.follow(lambda each: each.socket == KEPT + 500, fast.next)
    seen, lost, _ = gather(use, after, KEPT + 500)
    assert lost == 500
    assert seen == list(range(501, KEPT + 501))


def test_one_container_alone(made: Made) -> None:
    """While two are followed the kernel tells of all; then of one again."""
    use, kernel, clock, _ = made
    use.follow(every, "", 5)
    assert kernel.watched == (WATCH_S, 5)
    use.follow(every, "", 5)
    assert kernel.watched == (WATCH_S, 5)
    use.follow(every, "", 6)
    assert kernel.watched == (WATCH_S, 0)
    clock.now_s += WATCH_S / 2
    use.follow(every, "", 6)
    assert kernel.watched == (WATCH_S, 0)
    clock.now_s += WATCH_S / 2
    use.follow(every, "", 6)  # the other one has gone meanwhile
    assert kernel.watched == (WATCH_S, 6)
    use.follow(every, "")
    assert kernel.watched == (WATCH_S, 0)


def test_too_many_followers(made: Made) -> None:
    use, kernel, _, _ = made
    after = use.follow(every, "").next
    inside, leave = threading.Semaphore(0), threading.Event()

    def hold(_event: Event) -> bool:
        inside.release()
        return leave.wait(60)

    threads = [threading.Thread(target=lambda: use.follow(hold, after), daemon=True)
               for _ in range(FOLLOWERS)]
    kernel.tell(1)
    for each in threads:
        each.start()
    for _ in threads:
        assert inside.acquire(timeout=60)
    with pytest.raises(SlimError, match="8 others follow connections at the moment"):
        use.follow(every, after)
    leave.set()
    for each in threads:
        each.join(60)
    assert use.follow(every, "").next


@pytest.mark.parametrize("after", ["x", "1", "1-", "-1", "1-2-3", "1-²", "9" * 40, "1-2\n"])
def test_a_place_that_is_none(made: Made, after: str) -> None:
    with pytest.raises(InvalidArgument, match="is no place in the events"):
        made[0].follow(every, after)


@pytest.mark.parametrize("number", [0, 1, 10**18])
def test_a_number_that_somebody_has_made_up(made: Made, number: int) -> None:
    use, kernel, _, _ = made
    watch, _, _ = use.follow(every, "").next.partition("-")
    kernel.tell(1)
    batch = use.follow(every, f"{watch}-{number}")
    assert batch.lost <= 1
    assert gather(use, use.follow(every, "").next, 0)[1] == 0


def test_a_failure_ends_nothing(made: Made) -> None:
    use, kernel, _, _ = made
    kernel.failing = 2
    after = use.follow(every, "").next
    kernel.tell(1)
    assert gather(use, after, 1)[0] == [1]
